-- The state of limit groups, and what all model classes of a pool share: keyguard.learnt, with the same meaning and the
-- same bytes: check_store compares them. KEYS[1] is what is shared, the others are the states of groups.

local SECOND, HOUR, DAY, MOST, MOST_UNITS = 1000000, 3600000000, 86400000000, 2 ^ 53, 2 ^ 35
local FAR, LONGEST, EVEN = 400 * DAY, 32 * DAY, 1000
local TOLD, LEARNT, WINDOW, CONFIGURED = 1, 2, 4, 8
local OK, EXHAUSTED, QUOTA, RAMP, BILLING, INVALID, UNSUPPORTED, TOO_LARGE = 0, 1, 2, 3, 4, 5, 6, 7
local CAUSES = 12
local ceil = math.ceil

local spec, ids = cjson.decode(ARGV[2]), ARGV[3]

local function has(flags, flag) return flags % (2 * flag) >= flag end
local function without(flags, flag) return has(flags, flag) and flags - flag or flags end
local function with(flags, flag) return has(flags, flag) and flags or flags + flag end
local function id_of(place) return ids:sub(16 * place - 15, 16 * place) end

-- Blocks ---------------------------------------------------------------------------------------------------------------

local function block_of(cause, tries, since, until_, probe)
  return { cause = cause, tries = tries, since = since, until_ = until_, probe = probe }
end

local function clear(block) block.cause, block.tries, block.since, block.until_, block.probe = 0, 0, 0, 0, 0 end

local function block_back(block, by)
  block.since, block.until_, block.probe = max(0, block.since - by), max(0, block.until_ - by), max(0, block.probe - by)
end

-- For how long it is left alone; 0 if it is not, -1 if a probe is due.
local function wait_of(block)
  if block.until_ <= now then return 0 end
  return block.probe <= now and -1 or min(block.probe, block.until_) - now
end

-- After how long it is over; -1 if nobody knows.
local function over_of(block) return block.until_ - block.since >= FAR and -1 or block.until_ - now end

-- What is shared -------------------------------------------------------------------------------------------------------

local marks = { order = {}, of = {}, changed = false, foreign = false }

local function read_marks(data)
  if data:byte(1) > 1 then marks.foreign = true end
  if data:byte(1) ~= 1 or #data < 16 or (#data - 16) % 48 ~= 0 then return end
  local order, of = {}, {}
  for at = 17, #data, 48 do
    local id = data:sub(at, at + 15)
    local cause, tries, since, until_, probe = unpack_('<BBxxxxxxi8i8i8', data, at + 16)
    if cause >= CAUSES or min(since, until_, probe) < 0 or max(since, until_, probe) >= MOST then return end
    if not of[id] then order[#order + 1] = id end
    of[id] = block_of(cause, tries, since, until_, probe)
  end
  marks.order, marks.of = order, of
  local back = unpack_('<i8', data, 9) - now
  if back > SECOND then
    marks.changed = true
    for _, block in pairs(of) do block_back(block, back) end
  end
end

local function mark(place) return place > 0 and marks.of[id_of(place)] or nil end

local function made_mark(place)
  local id = place > 0 and id_of(place) or ('\0'):rep(16)
  marks.changed = true
  if not marks.of[id] then
    marks.order[#marks.order + 1] = id
    marks.of[id] = block_of(0, 0, 0, 0, 0)
  end
  return marks.of[id]
end

local function write_value(key, value, ttl)
  if value then
    redis.call('SET', key, pack('<I8', now + ttl) .. value, 'PX', floor(ttl / 1000) + slack)
  else
    redis.call('DEL', key)
  end
end

local function write_marks()
  local parts, last = { pack('<Bxxxxxxxi8', 1, now) }, -DAY
  for _, id in ipairs(marks.order) do
    local b = marks.of[id]
    if b.cause > 0 and b.until_ + DAY > now then
      parts[#parts + 1] = id .. pack('<BBxxxxxxi8i8i8', b.cause, b.tries, b.since, b.until_, b.probe)
      last = max(last, b.until_ - now)
    end
  end
  write_value(KEYS[1], #parts > 1 and table.concat(parts) or nil, max(2 * DAY, last + DAY))
end

-- Meters ---------------------------------------------------------------------------------------------------------------

local METER = '<BBHxxxxi8i8i8i8i8i8i8i8i8i8'

local function meter_of(unit, flags, pace, period, limit, told, when, used, end_then, booked_then, cap, set_at, paced)
  return {
    unit = unit, flags = flags, pace = pace, period = period, limit = limit, told = told or 0, when = when or 0,
    used = used or 0, end_then = end_then or 0, booked_then = booked_then or 0, cap = cap or 0, set_at = set_at or 0,
    paced = paced or 0,
  }
end

local function span(m, units)
  local limit = m.limit
  units = min(units, 4 * limit)
  if limit > 2 ^ 25 then units, limit = ceil(units / 1024), floor(limit / 1024) end
  return units * floor(m.period / limit) + ceil(units * (m.period % limit) / limit)
end

local function is_window(m) return has(m.flags, WINDOW) end

local function pace_at(m, at)
  local most = has(m.flags, LEARNT) and 8 * EVEN or m.cap > 0 and 3 * EVEN / 2 or EVEN
  return max(1, min(most, m.pace + floor(max(0, (at or now) - m.set_at) / (SECOND / 5))))
end

local function cap_at(m, at)
  if m.cap == 0 then return 0 end
  local cap = m.cap + floor(m.cap * min(floor(max(0, (at or now) - m.set_at) / SECOND), 4000) / 1000)
  return cap < m.limit and cap or 0
end

local function is_paced(m, at)
  return has(m.flags, LEARNT) or (m.cap > 0 and cap_at(m, at) > 0) or (m.pace < EVEN and pace_at(m, at) < EVEN)
end

local function pass_time(m)
  if m.paced > now + 100 * m.period then m.paced = now + m.period end
  if is_window(m) then
    if now >= m.when then
      m.used, m.when = 0, m.when + (floor((now - m.when) / m.period) + 1) * m.period
    elseif m.when > now + 2 * m.period then
      m.when = now + m.period
    end
  elseif m.when > now + 5 * m.period then
    m.when = now + m.period
  end
end

local function meter_back(m, by)
  m.when, m.end_then = max(0, m.when - by), max(0, m.end_then - by)
  m.set_at, m.paced = max(0, m.set_at - by), max(0, m.paced - by)
end

-- The moment from which on a pace has room for so many units.
local function room_of(m, units, pace, cap)
  local burst = cap > 0 and floor(span(m, cap) * EVEN / pace) or SECOND
  return m.paced - max(0, burst - floor(span(m, units) * EVEN / pace))
end

-- The moment from which on there is room for so many units, if it is asked for at a moment.
local function room_at(m, units, at)
  local start = at
  if is_window(m) then
    if m.used + units > m.limit then start = max(start, m.when) end
  elseif not has(m.flags, LEARNT) then
    start = max(start, m.when + span(m, units) - m.period)
  end
  if is_paced(m, at) then
    local cap = cap_at(m, at)
    start = max(start, room_of(m, units, pace_at(m, at), cap))
    while cap > 0 and start > at do -- the pace rises meanwhile, and the faster it is the less may come at once
      local room = room_of(m, units, pace_at(m, 2 * start - at), cap)
      if room <= start then break end
      start = room
    end
  end
  return start
end

local function book_units(m, units, start)
  if is_window(m) then
    m.used = m.used + units
  elseif not has(m.flags, LEARNT) then
    m.when = max(m.when, start) + span(m, units)
  end
  if is_paced(m) then m.paced = max(m.paced, start) + floor(span(m, units) * EVEN / pace_at(m)) end
end

-- Groups ---------------------------------------------------------------------------------------------------------------

local HEAD = '<BBHHH' .. ('i8'):rep(15)
local groups = {}

local function emptied(foreign)
  return {
    at = now, number = 0, answered = 0, slowed = 0, lately = 0, before = 0, notes = { 0, 0, 0, 0 }, booked = { 0, 0, 0, 0 },
    block = block_of(0, 0, 0, 0, 0), meters = {}, changed = false, foreign = foreign or false,
  }
end

local function out_of_range(values, first)
  for place = first, #values - 1 do  -- the last one is where the rest begins
    if values[place] < 0 or values[place] >= MOST then return true end
  end
  return false
end

-- The state that some bytes are; nothing if they are damaged.
local function read_group(data)
  local rest = #data - 128
  if data:byte(1) ~= 1 or rest < 0 or rest % 88 ~= 0 or rest > 8 * 88 then return nil end
  local v = { unpack_(HEAD, data) }
  if v[2] >= CAUSES or out_of_range(v, 6) then return nil end
  local group = emptied()
  group.lately, group.before = v[4], v[5]
  group.at, group.number, group.answered, group.slowed = v[6], v[7], v[8], v[20]
  group.notes, group.booked = { v[9], v[10], v[11], v[12] }, { v[13], v[14], v[15], v[16] }
  group.block = block_of(v[2], v[3], v[17], v[18], v[19])
  if v[17] > group.at or v[18] > group.at + FAR then return nil end
  for at = 129, #data, 88 do
    local w = { unpack_(METER, data, at) }
    if w[1] >= 4 or out_of_range(w, 1) then return nil end
    if w[4] < 1 or w[4] > LONGEST or w[5] < 1 or w[5] > MOST_UNITS then return nil end
    if not (has(w[2], TOLD) or has(w[2], LEARNT) or has(w[2], CONFIGURED)) then return nil end
    group.meters[#group.meters + 1] = meter_of(unpack(w, 1, 13))
  end
  return group
end

local function group_back(group, by)
  group.changed, group.at, group.slowed = true, group.at - by, max(0, group.slowed - by)
  group.notes[1], group.notes[3] = max(0, group.notes[1] - by), max(0, group.notes[3] - by)
  block_back(group.block, by)
  for _, m in ipairs(group.meters) do meter_back(m, by) end
end

local function meter_in(group, unit, period)
  for _, m in ipairs(group.meters) do
    if m.unit == unit and m.period == period then return m end
  end
end

local function add_meter(group, unit, period, flags, limit)
  if #group.meters >= 8 or period < 1 or period > LONGEST then return nil end
  local m = meter_of(unit, flags, EVEN, period, min(limit, MOST_UNITS))
  group.meters[#group.meters + 1] = m
  return m
end

local function configure(group, limits)
  for _, m in ipairs(group.meters) do
    if has(m.flags, CONFIGURED) then
      m.flags = m.flags - CONFIGURED
      if m.told > 0 then m.limit = m.told end
    end
  end
  for _, one in ipairs(limits) do
    local unit, period, limit = one[1], one[2], min(one[3], MOST_UNITS)
    local m = meter_in(group, unit, period) or add_meter(group, unit, period, CONFIGURED, limit)
    if m then
      m.flags = with(without(m.flags, LEARNT), CONFIGURED)
      m.limit = min(limit, m.told > 0 and m.told or limit)
    end
  end
  local kept = {}
  for _, m in ipairs(group.meters) do
    if has(m.flags, TOLD) or has(m.flags, CONFIGURED) or has(m.flags, LEARNT) then kept[#kept + 1] = m end
  end
  group.meters = kept
end

-- The state of a candidate's group. candidate: the place of its key, the ids of its keys, limits, rank, the group's id.
local function group_of(candidate)
  local place = candidate[1]
  local group = groups[place]
  if group then return group end
  local entry = living(redis.call('GET', KEYS[place]))
  local data = entry and entry:sub(9) or ''
  if data ~= '' and data:byte(1) > 1 then
    group = emptied(true)
  else
    group = data ~= '' and read_group(data) or emptied()
  end
  if now < group.at - SECOND then group_back(group, group.at - now) end
  local seconds = floor(now / SECOND) - floor(group.at / SECOND)
  if seconds > 0 then group.lately, group.before = 0, seconds == 1 and group.lately or 0 end
  for _, m in ipairs(group.meters) do pass_time(m) end
  configure(group, candidate[3])
  groups[place] = group
  return group
end

local function in_flight(group) return max(0, group.number - max(group.answered, group.notes[4])) end

local function write_group(place, g)
  local n, k, b = g.notes, g.booked, g.block
  local parts = {
    pack(HEAD, 1, b.cause, b.tries, g.lately, g.before, max(g.at, now), g.number, g.answered, n[1], n[2], n[3], n[4],
      k[1], k[2], k[3], k[4], b.since, b.until_, b.probe, g.slowed),
  }
  for _, m in ipairs(g.meters) do
    parts[#parts + 1] = pack(METER, m.unit, m.flags, m.pace, m.period, m.limit, m.told, m.when, m.used, m.end_then,
      m.booked_then, m.cap, m.set_at, m.paced)
  end
  write_value(KEYS[place], table.concat(parts), max(2 * DAY, b.until_ - now + DAY))
end

local function write_all()
  for place, group in pairs(groups) do
    if group.changed and not group.foreign then write_group(place, group) end
  end
  if marks.changed and not marks.foreign then write_marks() end
end

do
  local entry = living(redis.call('GET', KEYS[1]))
  if entry and #entry > 8 then read_marks(entry:sub(9)) end
end

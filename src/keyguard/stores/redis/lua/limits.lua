-- The arithmetic of keyguard.rates, with the same names and the same meaning: keyguard.testing.play.check_store compares them.
--
-- Numbers are doubles, exact up to 2^53. An *entry* is what is stored: eight bytes of expiry (microseconds, 0 for never)
-- and the value. An *outcome* is what a decision came to, as whole numbers of eight bytes: the time, whether it was
-- refused, and for each demand its time to live, what remains, the reset and the wait.
--
-- A decision must happen exactly once, so it carries a token of eight bytes. The field '!' of its first hash remembers
-- the last decisions of that caller that charged something, each in 16 bytes: token, and time (and CALLED_OFF: it may
-- not happen any more).

local SLICES, TICKS = 32, 16384
local LOG, WINDOW, SMOOTH = 1, 2, 3
local REMEMBERED, MOST = 10000000, 32  -- microseconds and number of decisions that are known by their tokens
local CALLED_OFF = 2 ^ 52

local floor, max, min = math.floor, math.max, math.min
local pack, unpack_ = struct.pack, struct.unpack

-- The server's time, or the one that a test hands in: then nothing may lapse by itself while the test goes on.
local now, slack
if ARGV[1] == '' then
  local time = redis.call('TIME')
  now, slack = time[1] * 1000000 + time[2], 1000
else
  now, slack = tonumber(ARGV[1]), 3600000
end

local function living(entry)
  if not entry then return nil end
  local expiry = unpack_('<I8', entry)
  return (expiry == 0 or expiry > now) and entry or nil
end

-- An entry of the other kind of window: a log as slices, slices as a log. It happens after a limit was edited, and only
-- when units are taken: all that is counted has room then.
local function converted(entry, period)
  local width = -floor(-period / SLICES)
  if #entry % 2 == 1 then
    local expiry, _, slice, _, count = unpack_('<I8c1I8I8I4', entry)
    local counts, times = { count }, {}
    for at = #entry - 3, 30, -4 do counts[#counts + 1] = unpack_('<I4', entry, at) end
    for i = #counts, 1, -1 do
      local time = min(now, (slice - i + 2 + SLICES) * width - period)
      times[#times + 1] = pack('<I8', time):rep(counts[i])
    end
    return pack('<I8', expiry) .. table.concat(times)
  end
  local newest, total, counts, older = 0, 0, {}, {}
  for at = 9, #entry, 8 do
    local time = unpack_('<I8', entry, at)
    if time > now - period then newest = max(newest, floor(time / width)) end
  end
  for i = 0, SLICES do counts[i] = 0 end
  for at = 9, #entry, 8 do
    local time = unpack_('<I8', entry, at)
    local place = SLICES - (newest - floor(time / width))
    if place >= 0 and time > now - period then
      counts[place] = counts[place] + 1
      total = total + 1
    end
  end
  for i = 0, SLICES - 1 do older[i + 1] = pack('<I4', counts[i]) end
  older = table.concat(older)
  local first = older:find('[^%z]')
  older = first and older:sub(first - (first - 1) % 4) or ''
  return entry:sub(1, 8) .. pack('<c1I8I8I4', 'S', newest, total, counts[SLICES]) .. older
end

-- Each returns the new entry (nil if nothing changed), its time to live, what remains, the reset and the wait. An entry of
-- the other kind of window is asked as it is, and converted when units are taken.

local take_window

local function take_log(entry, cost, quota, period)
  local length, moved = 0, false
  if entry then
    if #entry % 8 ~= 0 then
      local new, ttl, remaining, reset, wait = take_window(entry, cost, quota, -floor(-period / SLICES), period)
      if wait ~= 0 or cost == 0 then return new, ttl, remaining, reset, wait end
      new = pack('<I8', now + period) .. converted(new, period):sub(9)
      return new, period, remaining, unpack_('<I8', new, 9) + period - now, 0
    end
    length = #entry / 8 - 1
    local newest = length > 0 and unpack_('<I8', entry, #entry - 7) or 0
    if newest > now then
      local times = { pack('<I8', now + period) }
      for i = 1, length do times[i + 1] = pack('<I8', max(0, unpack_('<I8', entry, 8 * i + 1) - newest + now)) end
      entry, moved = table.concat(times), true
    end
  end
  local lapsed, oldest = 0, nil
  while lapsed < length do
    oldest = unpack_('<I8', entry, 8 * lapsed + 9)
    if oldest > now - period then break end
    lapsed = lapsed + 1
  end
  local used = length - lapsed
  local reset = used > 0 and oldest + period - now or 0
  if cost == 0 then return moved and entry or nil, period, max(0, quota - used), reset, 0 end
  if used + cost > quota then
    local wait = -1
    if cost <= quota then wait = unpack_('<I8', entry, 8 * (length + cost - quota) + 1) + period - now end
    return moved and entry or nil, period, max(0, quota - used), reset, wait
  end
  local taken = pack('<I8', now)
  if cost > 1 then taken = taken:rep(cost) end
  if used == 0 then return pack('<I8', now + period) .. taken, period, quota - cost, period, 0 end
  return pack('<I8', now + period) .. entry:sub(8 * lapsed + 9) .. taken, period, quota - used - cost, reset, 0
end

-- The slices of an entry as of now: whether time was set back, the sum of all counts, the newest, and the older ones.
local function slices_of(entry, here)
  local _, _, newest, total, count = unpack_('<I8c1I8I8I4', entry)
  if newest >= here then return newest > here, total, count, entry:sub(30) end
  if here - newest > SLICES then return false, 0, 0, '' end
  local older = entry:sub(30) .. pack('<I4', count) .. ('\0'):rep(4 * (here - newest - 1))
  local beyond = max(0, #older - 4 * SLICES)
  for at = 1, beyond, 4 do total = total - unpack_('<I4', older, at) end
  local first = older:find('[^%z]', beyond + 1)
  return false, total, 0, first and older:sub(first - (first - 1) % 4) or ''
end

take_window = function(entry, cost, quota, width, period)
  local here = floor(now / width)
  local until_lapse = (here + SLICES + 1) * width - now
  local moved, total, count, older = false, 0, 0, ''
  if entry then
    if #entry % 2 == 0 then
      local new, ttl, remaining, reset = take_log(entry, 0, quota, period)
      if cost == 0 then return new, ttl, remaining, reset, 0 end
      if cost > remaining then return take_log(entry, cost, quota, period) end
      entry = converted(new or entry, period)
    end
    moved, total, count, older = slices_of(entry, here)
  end
  local spent = total + cost
  local reset = until_lapse - #older / 4 * width
  if spent <= quota and cost > 0 then
    local new = pack('<I8c1I8I8I4', now + until_lapse, 'S', here, spent, count + cost)
    return older == '' and new or new .. older, until_lapse, quota - spent, reset, 0
  end
  local kept = moved and pack('<I8c1I8I8I4', now + until_lapse, 'S', here, total, count) .. older or nil
  if total == 0 then reset = 0 end
  local wait = 0
  if cost > quota then
    wait = -1
  elseif spent > quota and cost > 0 then
    -- how many slices are younger than the one with which the oldest units over the quota have all lapsed
    local over, younger = spent - quota, #older / 4
    for at = 1, #older, 4 do
      over = over - unpack_('<I4', older, at)
      if over <= 0 then break end
      younger = younger - 1
    end
    wait = until_lapse - younger * width
  end
  return kept, until_lapse, max(0, quota - total), reset, wait
end

-- A smooth limit's entry: when the next unit is due, microseconds in eight bytes, and ticks in two more, if there are any.

local function due_of(entry)
  if #entry > 16 then return unpack_('<I8I2', entry, 9) end
  return unpack_('<I8', entry, 9), 0
end

local function smooth_entry(life, ahead)
  local micros = floor(ahead / TICKS)
  local ticks = ahead - micros * TICKS
  local entry = pack('<I8I8', now + life, now + micros)
  return ticks > 0 and entry .. pack('<I2', ticks) or entry
end

-- Its numbers are in ticks, and exact: those above 2^53 are whole microseconds.
local function ahead_of(entry, pace)
  if not entry then return 0 end
  local micros, ticks = due_of(entry)
  if pace % TICKS == 0 then return max(0, micros - now + (ticks > 0 and 1 or 0)) * TICKS end
  local ahead = (micros - now) * TICKS + ticks
  return ahead > -TICKS and ahead or 0
end

local function take_smooth(entry, cost, pace, room, burst)
  local fine, ahead, wait = pace % TICKS ~= 0, ahead_of(entry, pace), 0
  local moved = ahead > room
  if moved then ahead = room end
  local after = ahead
  if cost > burst then
    wait = -1
  elseif cost > 0 then
    after = ahead + cost * pace
    if after > room then
      after, wait = ahead, -floor(-(after - room) / TICKS)
    end
  end
  local life = max(0, -floor(-after / TICKS) + (fine and 1 or 0))
  local kept = (moved or after ~= ahead) and smooth_entry(life, after) or nil
  local reset = after % pace
  if reset == 0 then reset = pace end
  return kept, life, min(burst, floor((room - after) / pace)), after > 0 and -floor(-reset / TICKS) or 0, wait
end

-- Units that are charged whatever is left: the new entry, and its time to live.

local function charge_window(entry, cost, quota, width, period)
  local here, total, count, older = floor(now / width), 0, 0, ''
  local until_lapse = (here + SLICES + 1) * width - now
  if entry then
    if #entry % 2 == 0 then entry = converted(take_log(entry, 0, quota, period) or entry, period) end
    local _
    _, total, count, older = slices_of(entry, here)
  end
  local more = min(cost, max(0, quota - count))
  return pack('<I8c1I8I8I4', now + until_lapse, 'S', here, total + more, count + more) .. older, until_lapse
end

local function charge_log(entry, cost, quota, period)
  if entry and #entry % 8 ~= 0 then return charge_window(entry, cost, quota, -floor(-period / SLICES), period) end
  if entry then entry = take_log(entry, 0, quota, period) or entry end
  local times = (entry and entry:sub(9) or '') .. pack('<I8', now):rep(min(cost, quota))
  return pack('<I8', now + period) .. times:sub(-8 * quota), period
end

local function charge_smooth(entry, cost, pace, room)
  local ahead = min(room, ahead_of(entry, pace) + cost * pace)
  local life = -floor(-ahead / TICKS) + (pace % TICKS ~= 0 and 1 or 0)
  return smooth_entry(life, ahead), life
end

-- The demands: ARGV[2] holds for each its kind, the place of its hash in KEYS, three numbers of its limit and its cost;
-- their fields are the arguments from `first` on. The hashes of the demands are KEYS from `base` on.

local entries, decisions

local function read(first, base)
  if #KEYS == base then
    entries = redis.call('HMGET', KEYS[base], '!', unpack(ARGV, first))
    decisions = entries[1] or ''
  else
    decisions = redis.call('HGET', KEYS[base], '!') or ''
    entries = {}
    for i = first, #ARGV do
      local _, hash = unpack_('<I1I1', ARGV[2], 34 * (i - first) + 1)
      entries[i - first + 2] = redis.call('HGET', KEYS[hash], ARGV[i])
    end
  end
end

-- All or nothing: whether the demands are refused, the numbers of the outcome, and what to write, by hash.
local function decide(first, free)
  local numbers, lists, lives, refused = { now, 0 }, {}, {}, false
  for round = 1, 2 do
    local at = 1
    for i = first, #ARGV do
      local kind, hash, a, b, c, cost
      kind, hash, a, b, c, cost, at = unpack_('<I1I1I8I8I8I8', ARGV[2], at)
      local place = 4 * (i - first) + 3
      -- in the second round, limits that would have admitted say what is left, and charge nothing
      if free or (round == 2 and numbers[place + 3] == 0) then cost = 0 end
      local entry = living(entries[i - first + 2])
      local new, ttl, remaining, reset, wait
      if kind == WINDOW then
        new, ttl, remaining, reset, wait = take_window(entry, cost, a, b, c)
      elseif kind == LOG then
        new, ttl, remaining, reset, wait = take_log(entry, cost, a, b)
      else
        new, ttl, remaining, reset, wait = take_smooth(entry, cost, a, b, c)
      end
      numbers[place], numbers[place + 1], numbers[place + 2], numbers[place + 3] = ttl, remaining, reset, wait
      if wait ~= 0 then refused = true end
      if new then
        local list = lists[hash]
        if not list then
          list = {}
          lists[hash], lives[hash] = list, 0
        end
        local length = #list
        list[length + 1], list[length + 2] = ARGV[i], new
        if ttl > lives[hash] then lives[hash] = ttl end
      end
    end
    if not refused or round == 2 then break end
    lists, lives, numbers[2] = {}, {}, 1
  end
  return refused, numbers, lists, lives
end

local function outcome_of(numbers) return pack('<' .. ('i8'):rep(#numbers), unpack(numbers)) end

local function write(lists, lives)
  for hash, list in pairs(lists) do
    redis.call('HSET', KEYS[hash], unpack(list))
    local life = floor(lives[hash] / 1000) + slack
    -- an eighth longer than needed, so that it need not be told again at each request
    if redis.call('PTTL', KEYS[hash]) < life then redis.call('PEXPIRE', KEYS[hash], life + floor(life / 8)) end
  end
end

-- The decisions with one more; those that are too old, or too many, leave.
local function remembering(token, time)
  local from = 1
  while from <= #decisions do
    if unpack_('<I8', decisions, from + 8) % CALLED_OFF + REMEMBERED > now and #decisions - from < 16 * MOST then break end
    from = from + 16
  end
  return (from == 1 and decisions or decisions:sub(from)) .. token .. pack('<I8', time)
end

-- Take what is demanded, unless this very decision was made before, or was called off. Returns its outcome.
local function charge(token, first, base)
  local known = decisions ~= '' and decisions:find(token, 1, true)
  if known then
    if unpack_('<I8', decisions, known + 8) > CALLED_OFF then return 'x' end
    local _, numbers = decide(first, true)
    return outcome_of(numbers)
  end
  local refused, numbers, lists, lives = decide(first, false)
  local list = lists[base]
  if not refused and next(lists) then
    if not list then
      list = {}
      lists[base], lives[base] = list, REMEMBERED
    end
    list[#list + 1], list[#list + 2] = '!', remembering(token, now)
  end
  write(lists, lives)
  return outcome_of(numbers)
end

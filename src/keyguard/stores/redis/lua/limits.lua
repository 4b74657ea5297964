-- The arithmetic of keyguard.rates, with the same names and the same meaning: keyguard.testing.check_store compares them.
--
-- Numbers are doubles, exact up to 2^53. A stored entry is eight bytes of expiry (microseconds, 0 for never) and the
-- value. An *outcome* is what a decision came to, as whole numbers of eight bytes: the time, whether it was refused,
-- and for each demand its time to live, what remains, the reset and the wait.

local SLICES, LOG_MAX = 32, 32
local LOG, WINDOW, SMOOTH = 1, 2, 3
local REMEMBERED = 10000  -- milliseconds for which a decision is known by its token

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

local function u64(state, place) return (unpack_('<I8', state, 8 * place - 7)) end

local function living(entry)
  if not entry then return nil end
  local expiry = unpack_('<I8', entry)
  if expiry ~= 0 and expiry <= now then return nil end
  return entry:sub(9)
end

local function counts_of(data)
  local counts = {}
  for at = 1, #data, 4 do counts[#counts + 1] = unpack_('<I4', data, at) end
  return counts
end

local function stripped(older)
  local first = older:find('[^%z]')
  return first and older:sub(first - (first - 1) % 4) or ''
end

local function head(slice, total, count) return pack('<c1I8I8I4', 'S', slice, total, count) end

-- slices as a log
local function log_of(state, period)
  local width = -floor(-period / SLICES)
  local slice, _, count = unpack_('<I8I8I4', state, 2)
  local counts, times = counts_of(state:sub(22)), {}
  counts[#counts + 1] = count
  for i = #counts, 1, -1 do
    local time = pack('<I8', min(now, (slice + SLICES + 1) * width - period))
    for _ = 1, min(counts[i], LOG_MAX + 1 - #times) do table.insert(times, 1, time) end
    slice = slice - 1
  end
  return table.concat(times)
end

-- a log as slices
local function slices_of(state, width, period)
  local newest, counts, total = 0, {}, 0
  for i = 1, #state / 8 do
    if u64(state, i) > now - period then newest = max(newest, floor(u64(state, i) / width)) end
  end
  for i = 0, SLICES do counts[i] = 0 end
  for i = 1, #state / 8 do
    local place = SLICES - (newest - floor(u64(state, i) / width))
    if place >= 0 and u64(state, i) > now - period then
      counts[place] = counts[place] + 1
      total = total + 1
    end
  end
  local older = {}
  for i = 0, SLICES - 1 do older[i + 1] = pack('<I4', counts[i]) end
  return head(newest, total, counts[SLICES]) .. stripped(table.concat(older))
end

local take, give_back = {}, {}

-- Each returns the new state (nil where nothing changed), time to live, remaining, reset and wait.

take[LOG] = function(state, cost, quota, period)
  local moved = false
  state = state or ''
  if #state % 8 ~= 0 then state = log_of(state, period) end
  local length = #state / 8
  if length > 0 and u64(state, length) > now then
    local back, times = u64(state, length) - now, {}
    for i = 1, length do times[i] = pack('<I8', max(0, u64(state, i) - back)) end
    state, moved = table.concat(times), true
  end
  local lapsed = 0
  while lapsed < length and u64(state, lapsed + 1) <= now - period do lapsed = lapsed + 1 end
  local used = length - lapsed
  local kept = moved and state or nil
  local reset = used > 0 and u64(state, lapsed + 1) + period - now or 0
  if used + cost > quota then
    local wait = cost > quota and -1 or u64(state, lapsed + used + cost - quota) + period - now
    return kept, period, max(0, quota - used), reset, wait
  end
  if cost == 0 then return kept, period, quota - used, reset, 0 end
  if used == 0 then reset = period end
  return state:sub(8 * lapsed + 1) .. pack('<I8', now):rep(cost), period, quota - used - cost, reset, 0
end

give_back[LOG] = function(state, at, cost, quota, period)
  if #state % 8 ~= 0 then state = log_of(state, period) end
  local wanted, kept, found = pack('<I8', at), {}, 0
  for i = 1, #state, 8 do
    local time = state:sub(i, i + 7)
    if time == wanted and found < cost then found = found + 1 else kept[#kept + 1] = time end
  end
  return found > 0 and table.concat(kept) or nil
end

take[WINDOW] = function(state, cost, quota, width, period)
  local here = floor(now / width)
  local until_lapse = (here + SLICES + 1) * width - now
  local moved, total, count, older = false, 0, 0, ''
  if state then
    if #state % 2 == 0 then state = slices_of(state, width, period) end
    local newest
    newest, total, count = unpack_('<I8I8I4', state, 2)
    older = state:sub(22)
    if newest > here then
      moved = true
    elseif here - newest > SLICES then
      total, count, older = 0, 0, ''
    elseif newest < here then
      older = older .. pack('<I4', count) .. ('\0'):rep(4 * (here - newest - 1))
      local beyond = max(0, #older - 4 * SLICES)
      for at = 1, beyond, 4 do total = total - unpack_('<I4', older, at) end
      count, older = 0, stripped(older:sub(beyond + 1))
    end
  end
  local spent = total + cost
  local reset = until_lapse - #older / 4 * width
  if spent <= quota and cost > 0 then
    return head(here, spent, count + cost) .. older, until_lapse, quota - spent, reset, 0
  end
  local kept = moved and head(here, total, count) .. older or nil
  if total == 0 then reset = 0 end
  local wait = 0
  if cost > quota then
    wait = -1
  elseif spent > quota then
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

give_back[WINDOW] = function(state, at, cost, quota, width, period)
  if #state % 2 == 0 then state = slices_of(state, width, period) end
  local newest, total, count = unpack_('<I8I8I4', state, 2)
  local older = state:sub(22)
  local back = newest - floor(at / width)
  if back == 0 then
    local found = min(cost, count)
    if found == 0 then return nil end
    return head(newest, total - found, count - found) .. stripped(older)
  end
  local place = #older - 4 * back + 1
  if back < 0 or place < 1 then return nil end
  local there = unpack_('<I4', older, place)
  local found = min(cost, there)
  if found == 0 then return nil end
  older = older:sub(1, place - 1) .. pack('<I4', there - found) .. older:sub(place + 4)
  return head(newest, total - found, count) .. stripped(older)
end

take[SMOOTH] = function(state, cost, interval, tolerance, burst)
  local due = state and max(now, u64(state, 1)) or now
  local moved = due > now + tolerance
  if moved then due = now + tolerance end
  local kept = moved and pack('<I8', due) or nil
  local after = due + cost * interval
  local wait = after - tolerance - now
  if wait > 0 then
    local reset = (due - now - 1) % interval + 1
    return kept, due - now, floor((tolerance - (due - now)) / interval), reset, cost > burst and -1 or wait
  end
  local reset = after > now and (after - now - 1) % interval + 1 or 0
  if cost > 0 then kept = pack('<I8', after) end
  return kept, after - now, floor((tolerance - (after - now)) / interval), reset, 0
end

give_back[SMOOTH] = function(state, at, cost, interval)
  return pack('<I8', max(0, u64(state, 1) - cost * interval))
end

-- The demands of a call: `blob` holds for each its kind, the place of its hash in KEYS, three numbers of its limit and
-- its cost; their fields are the arguments from `first` on. The states are read along with them.
local function demands_of(blob, first)
  local demands, at, hash, same = {}, 1, nil, true
  for i = first, #ARGV do
    local demand = { field = ARGV[i] }
    demand.kind, demand.hash, demand.a, demand.b, demand.c, demand.cost, at = unpack_('<I1I1I8I8I8I8', blob, at)
    hash = hash or demand.hash
    same = same and demand.hash == hash
    demands[#demands + 1] = demand
  end
  if same and hash then
    local entries = redis.call('HMGET', KEYS[hash], unpack(ARGV, first))
    for i, demand in ipairs(demands) do demand.state = living(entries[i]) end
  else
    for _, demand in ipairs(demands) do demand.state = living(redis.call('HGET', KEYS[demand.hash], demand.field)) end
  end
  return demands
end

local function taking(demand, cost)
  return take[demand.kind](demand.state, cost, demand.a, demand.b, demand.c)
end

-- All or nothing: whether the demands are refused, the outcome, and what to write.
local function decide(demands)
  local refused, takings, changes = 0, {}, {}
  for i, demand in ipairs(demands) do
    local state, ttl, remaining, reset, wait = taking(demand, demand.cost)
    if wait ~= 0 then refused = 1 end
    demand.wait = wait
    takings[i] = pack('<i8i8i8i8', ttl, remaining, reset, wait)
    if state then changes[#changes + 1] = { demand.hash, demand.field, state, ttl } end
  end
  if refused == 1 then
    changes = {}
    for i, demand in ipairs(demands) do
      -- a limit that would have admitted says what is left, and a state moved because time was set back is kept
      local state, ttl, remaining, reset, wait = taking(demand, demand.wait == 0 and 0 or demand.cost)
      takings[i] = pack('<i8i8i8i8', ttl, remaining, reset, wait)
      if state then changes[#changes + 1] = { demand.hash, demand.field, state, ttl } end
    end
  end
  return refused == 1, pack('<i8i8', now, refused) .. table.concat(takings), changes
end

-- Write `{place of the hash, field, state or false, ttl}`; each hash lives at least as long as its entries.
local function write(changes)
  local fields, lives = {}, {}
  for _, change in ipairs(changes) do
    local hash, field, state, ttl = change[1], change[2], change[3], change[4]
    if state then
      local list = fields[hash] or {}
      list[#list + 1] = field
      list[#list + 1] = pack('<I8', now + ttl) .. state
      fields[hash] = list
      lives[hash] = max(lives[hash] or 0, ttl)
    else
      redis.call('HDEL', KEYS[hash], field)
    end
  end
  for hash, list in pairs(fields) do
    redis.call('HSET', KEYS[hash], unpack(list))
    local life = floor(lives[hash] / 1000) + slack
    -- an eighth longer than needed, so that it need not be told again at each request
    if redis.call('PTTL', KEYS[hash]) < life then redis.call('PEXPIRE', KEYS[hash], life + floor(life / 8)) end
  end
end

-- Write what was charged, unless this very decision was made before or was called off: then that outcome holds.
-- Nothing is written before the token, so where the server has no memory left, nothing is charged.
local function charge(token, refused, outcome, changes)
  if refused or #changes == 0 then
    local before = redis.call('GET', token)
    if before then return before end
  elseif not redis.call('SET', token, outcome, 'NX', 'PX', REMEMBERED) then
    return redis.call('GET', token) or outcome
  end
  write(changes)
  return outcome
end

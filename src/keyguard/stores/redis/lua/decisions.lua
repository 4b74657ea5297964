-- Decisions on limits. An *outcome* is what one came to, as whole numbers of eight bytes: the time, whether it was refused,
-- and for each demand its time to live, what remains, the reset and the wait.
--
-- A decision must happen exactly once, so it carries a token of eight bytes. The field '!' of its first hash remembers
-- the last decisions of that caller that charged something, each in 16 bytes: token, and time (and CALLED_OFF: it may
-- not happen any more).
--
-- A kind of limit is a table of functions. `take(entry, cost, a, b, c, d)` returns the new entry (nil if nothing changed),
-- its time to live, what remains, the reset and the wait. `back(entry, at, cost, a, ...)` returns the entry without what
-- was taken at a time, or nil. `over(entry, cost, a, ...)` charges whatever is left: the new entry, its time to live.
-- `expires(at, cost, a, ...)` is when what was taken at a time has expired by itself.

local REMEMBERED, MOST = 10000000, 32  -- microseconds and number of decisions that are known by their tokens
local CALLED_OFF = 2 ^ 52

-- A kind that is `dated` has numbers that hold from `b` to `c` alone: where periods of the calendar begin only the caller
-- can tell. If it is another time here, nothing happens, and the answer is the time: the caller asks again.

local kinds = {}  -- by the number that a demand names; the script holds those that are asked for
local dated = false  -- whether one of them is

-- The demands: ARGV[2] holds for each its kind, the place of its hash in KEYS and its flags, a byte each, and of eight
-- bytes four numbers of its limit, its cost, and the length of its lease in microseconds (0 for none). Bit 0 of the flags
-- says that it is only watched, which is not used yet; bit 1, that units of it may be held (holds.lua). The fields of the demands are the arguments from `first` on, their hashes
-- are KEYS from `base` on.

local DEMAND, LENGTH = '<I1I1I1I8I8I8I8I8I8', 51

-- Whether the numbers of a demand hold for another time. The fields of the demands are the arguments from `first` on.
local function outdated(first)
  local at = 1
  for _ = first, #ARGV do
    local kind, begin, ending
    kind, _, _, _, begin, ending, _, _, _, at = unpack_(DEMAND, ARGV[2], at)
    if kinds[kind].dated and (now < begin or now >= ending) then return true end
  end
  return false
end

local entries, decisions
local beside_holds, release_hold  -- set by holds.lua, which a script has that may meet holds

local function read(first, base)
  if #KEYS == base then
    entries = redis.call('HMGET', KEYS[base], '!', unpack(ARGV, first))
    decisions = entries[1] or ''
  else
    decisions = redis.call('HGET', KEYS[base], '!') or ''
    entries = {}
    for i = first, #ARGV do
      local _, hash = unpack_('<I1I1', ARGV[2], LENGTH * (i - first) + 1)
      entries[i - first + 2] = redis.call('HGET', KEYS[hash], ARGV[i])
    end
  end
end

-- All or nothing: whether the demands are refused, the numbers of the outcome, and what to write, by hash. `since` is when
-- this very decision was made before: then nothing is charged, and what it holds is told as of now.
local function decide(first, since)
  local numbers, lists, lives, refused = { now, 0 }, {}, {}, false
  for round = 1, 2 do
    local at = 1
    for i = first, #ARGV do
      local kind, hash, flags, a, b, c, d, cost, lease
      kind, hash, flags, a, b, c, d, cost, lease, at = unpack_(DEMAND, ARGV[2], at)
      local place = 4 * (i - first) + 3
      -- in the second round, limits that would have admitted say what is left, and charge nothing
      if since or (round == 2 and numbers[place + 3] == 0) then cost = 0 end
      local entry = living(entries[i - first + 2])
      local new, ttl, remaining, reset, wait, held
      if flags < 2 then
        new, ttl, remaining, reset, wait = kinds[kind].take(entry, cost, a, b, c, d)
      else
        new, ttl, remaining, reset, wait, held =
          beside_holds(kinds[kind].take, entry, hash, ARGV[i], cost, lease, lists, lives, a, b, c, d)
        if since and lease > 0 then ttl = since - now + lease end
      end
      if beside_holds then numbers[4 * (#ARGV - first + 1) + 3 + i - first] = held or 0 end
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
    local _, numbers = decide(first, unpack_('<I8', decisions, known + 8))
    return outcome_of(numbers)
  end
  local refused, numbers, lists, lives = decide(first)
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

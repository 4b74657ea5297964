-- What is held of limits: keyguard.ops.holds, with the same meaning: check_store compares them. A script has this part if
-- units of a limit that it is called for may be held (bit 1 of the flags).
--
-- The holds on a field stand in another one beside it: the longest lease and the last number given; and for each its number,
-- its units and the end of its lease.

local HELD, MOST_HOLDS, HELD_WAIT = ':held', 1000, 1000000

local function holds_of(hash, field)
  local entry = living(redis.call('HGET', KEYS[hash], field .. HELD))
  local held = { longest = 0, last = 0, units = 0, count = 0, numbers = {}, of = {}, ends = {} }
  if not entry then return held end
  held.longest, held.last = unpack_('<I8I8', entry, 9)
  for at = 25, #entry, 24 do
    local number, units, ending = unpack_('<I8I8I8', entry, at)
    if ending > now + held.longest then  -- time was set back
      ending, held.changed = now + held.longest, true
    end
    if ending > now then
      held.count, held.units = held.count + 1, held.units + units
      held.numbers[held.count], held.of[held.count], held.ends[held.count] = number, units, ending
    end
  end
  return held
end

-- The place of the hold with that number, which is the moment when it began, but for those of one microsecond.
local function place_of(held, number)
  for place = 1, held.count do
    if held.numbers[place] == number then return place end
  end
end

local function release(held, place)
  held.changed = true
  for _, list in ipairs({ held.numbers, held.of, held.ends }) do table.remove(list, place) end
  held.count = held.count - 1
end

local function lease_anew(held, place, lease)
  held.longest, held.ends[place], held.changed = max(held.longest, lease), now + lease, true
end

-- Write the holds, if they have changed.
local function write_holds(held, hash, field, lists, lives)
  if not held.changed then return end
  local latest, parts = held.count > 0 and 0 or held.last + 1, { pack('<I8I8', held.longest, held.last) }
  for place = 1, held.count do
    latest = max(latest, held.ends[place])
    parts[place + 1] = pack('<I8I8I8', held.numbers[place], held.of[place], held.ends[place])
  end
  if latest <= now then
    redis.call('HDEL', KEYS[hash], field .. HELD)
    return
  end
  local list = lists[hash] or {}
  list[#list + 1], list[#list + 2] = field .. HELD, pack('<I8', latest) .. table.concat(parts)
  lists[hash], lives[hash] = list, max(lives[hash] or 0, latest - now)
end

-- What a limit answers of which some units are held: its time to live, what remains, the reset and the wait.
local function ask(take, entry, cost, held, a, b, c, d)
  local _, ttl, remaining, reset, wait = take(entry, cost + held, a, b, c, d)
  if wait == 0 then return ttl, remaining, reset, 0 end
  local short
  if cost == 0 then
    _, _, _, _, short = take(entry, 0, a, b, c, d)
    return ttl, 0, reset, short
  end
  _, ttl, _, reset, wait = take(entry, cost, a, b, c, d)
  _, _, remaining, _, short = take(entry, held, a, b, c, d)
  if wait == 0 then reset, wait = HELD_WAIT, HELD_WAIT end
  return ttl, short == 0 and remaining or 0, reset, wait
end

-- Take beside what is held: what `take` of the kind returns, and how much was held. What is held anew goes into the lists.
beside_holds = function(take, entry, hash, field, cost, lease, lists, lives, a, b, c, d)
  local held = holds_of(hash, field)
  local units, new, ttl, remaining, reset, wait = held.units, nil, 0, 0, HELD_WAIT, HELD_WAIT
  local holding = lease > 0 and cost > 0
  if not holding or held.count < MOST_HOLDS then
    ttl, remaining, reset, wait = ask(take, entry, cost, units, a, b, c, d)
  end
  local charged = (wait == 0 and lease == 0) and cost or 0
  if entry or charged > 0 then new, ttl = take(entry, charged, a, b, c, d) end
  if holding and wait == 0 then
    held.last = max(now, held.last + 1)
    held.count = held.count + 1
    held.numbers[held.count], held.of[held.count] = held.last, cost
    lease_anew(held, held.count, lease)
    ttl = held.last - now + lease
  end
  write_holds(held, hash, field, lists, lives)
  return new, ttl, remaining, reset, wait, units
end

release_hold = function(hash, field, number, lists, lives)
  local held = holds_of(hash, field)
  local place = place_of(held, number)
  if place then release(held, place) end
  write_holds(held, hash, field, lists, lives)
end

-- The limit of keyguard.rates.gcra, with the same names and the same meaning: check_store compares them.

local TICKS = 16384

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

local function charge_smooth(entry, cost, pace, room)
  local ahead = min(room, ahead_of(entry, pace) + cost * pace)
  local life = -floor(-ahead / TICKS) + (pace % TICKS ~= 0 and 1 or 0)
  return smooth_entry(life, ahead), life
end

local function back_smooth(entry, _, cost, pace)
  local micros, ticks = due_of(entry)
  local whole = floor(cost * pace / TICKS)
  micros, ticks = micros - whole, ticks - (cost * pace - whole * TICKS)
  if ticks < 0 then micros, ticks = micros - 1, ticks + TICKS end
  if micros < 0 then micros, ticks = 0, 0 end
  return pack('<I8I8', 0, micros) .. (ticks > 0 and pack('<I2', ticks) or '')
end

kinds[3] = {  -- Smooth: pace, room, burst
  take = take_smooth,
  back = back_smooth,
  over = charge_smooth,
  expires = function(at, cost, pace) return at + cost * pace / TICKS end,  -- before that it has not drained
}

-- The limit of keyguard.rates.quotas, with the same names and the same meaning: check_store compares them.
-- An entry holds the end of the period for which it counts, and the units spent in it.

dated = true

local MOST_SPENT = 2 ^ 52

local function quota_entry(ending, spent) return pack('<I8I8i8', ending, ending, spent) end

-- The units that are spent now, and whether they count for another period than the present one.
local function quota_spent(entry, ending)
  if not entry then return 0, false end
  local till, spent = unpack_('<I8i8', entry, 9)
  if till <= now then return 0, false end
  return spent, till ~= ending
end

local function take_quota(entry, cost, quota, _, ending)
  local spent, moved = quota_spent(entry, ending)
  local life, left, wait = ending - now, quota - spent, 0
  if cost > 0 and cost > left then
    wait = cost > quota and -1 or life
  else
    spent, left = spent + cost, left - cost
    moved = moved or cost > 0
  end
  return moved and quota_entry(ending, spent) or nil, life, max(0, left), spent > 0 and life or 0, wait
end

local function charge_quota(entry, cost, _, _, ending)
  return quota_entry(ending, min(MOST_SPENT, quota_spent(entry, ending) + cost)), ending - now
end

local function back_quota(entry, at, cost, _, start, ending)
  local till, spent = unpack_('<I8i8', entry, 9)
  if till ~= ending or at < start then return nil end
  return spent == cost and '' or quota_entry(ending, spent - cost)
end

kinds[4] = {  -- Quota: quota, begin and end of the present period
  dated = true,
  take = take_quota,
  back = back_quota,
  over = charge_quota,
  expires = function(_, _, _, _, ending) return ending end,
}

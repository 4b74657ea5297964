-- The limit of keyguard.rates.balances, with the same names and the same meaning: check_store compares them.
-- An entry holds the end of the period in which the balance was last filled, and the balance.

dated = true

local MOST_CREDITS, LIFE = 2 ^ 52, 630720000000000

local function credits_entry(ending, balance) return pack('<I8I8i8', now + LIFE, ending, balance) end

-- The balance now, and whether it counts for another period than the present one.
local function balance_of(entry, units, ending, filled)
  if not entry then return units, false end
  local till, balance = unpack_('<I8i8', entry, 9)
  if till > now then return balance, till ~= ending end
  return max(balance, filled), false
end

local function take_credits(entry, cost, units, _, ending, filled)
  local balance, moved = balance_of(entry, units, ending, filled)
  local wait = 0
  if cost > 0 and cost > balance then
    wait = cost <= filled and ending - now or -1
  else
    balance, moved = balance - cost, moved or cost > 0
  end
  local kept = moved and credits_entry(ending, balance) or nil
  return kept, LIFE, max(0, balance), filled > 0 and balance < filled and ending - now or 0, wait
end

local function charge_credits(entry, cost, units, _, ending, filled)
  return credits_entry(ending, max(-MOST_CREDITS, balance_of(entry, units, ending, filled) - cost)), LIFE
end

local function back_credits(entry, at, cost, _, start, ending)
  local till, balance = unpack_('<I8i8', entry, 9)
  if till == ending and at < start then return nil end
  return pack('<I8I8i8', 0, till, balance + cost)
end

kinds[5] = {  -- Credits: units, begin and end of the present period, and up to what the balance is filled
  dated = true,
  take = take_credits,
  back = back_credits,
  over = charge_credits,
  expires = function(at) return at + LIFE end,
}

-- The limit of keyguard.rates.slots, with the same meaning: check_store compares them. It has no state.

kinds[7] = {  -- Slots: quota
  take = function(_, cost, quota)
    if cost > quota then return nil, 0, quota, 0, -1 end
    return nil, 0, quota - cost, 0, 0
  end,
  back = function() return nil end,
  over = function() return '', 0 end,
  expires = function(at) return at end,
}

-- What is kept of a key's penalty, in a field of its own: how many blocks there were that are not
-- forgotten, when the last one began and ends, when nothing of it matters any more, and when each refusal
-- was that counts towards the next block. A text that cannot be read is no penalty: the next refusal
-- replaces it, and the quota holds all the same.

local blocked_by, count_refusal
if has_penalties == 1 then
  -- As in src/penalty.rs: 366 days.
  local LONGEST_BLOCK, HEAD, HEAD_SIZE = 366 * 86400000000, '<dddd', 32

  local function read(text)
    if not text or #text < HEAD_SIZE or #text % 8 ~= 0 then return 0, 0, 0, 0, '', false end
    local blocks, began, ends, matters = parse(HEAD, text)
    if
      blocks % 1 ~= 0 or blocks < 0 or began % 1 ~= 0 or began < 0 or ends % 1 ~= 0
      or ends < began or ends - began > LONGEST_BLOCK or ends > EXACT
      or matters % 1 ~= 0 or matters < ends or matters > EXACT
    then
      return 0, 0, 0, 0, '', false
    end
    local was_set_back = began > now
    if was_set_back then
      began, ends, matters = now, ends - began + now, matters - began + now
    end
    return blocks, began, ends, matters, text:sub(HEAD_SIZE + 1), was_set_back
  end

  -- How much longer the key is blocked; if the clock was set back, also the text to write, and how long it
  -- matters.
  function blocked_by(text)
    local blocks, began, ends, matters, refusals, was_set_back = read(text)
    local moved = was_set_back and pack(HEAD, blocks, began, ends, matters) .. refusals
    return ends > now and ends - now or 0, moved, matters - now
  end

  -- Counts a refusal by the penalty that begins at `offset`. Returns the text to write, if it counts, and
  -- how long that matters.
  function count_refusal(text, offset)
    local penalties = ARGV[3]
    local after, count, within, forget_after = parse('<dddd', penalties, offset)
    local blocks, began, ends, matters, refusals = read(text)
    if ends > now then return end
    if ends + forget_after <= now or matters <= now then blocks = 0 end
    if matters <= now then refusals = '' end
    local kept, number = {}, 1
    for at = 1, #refusals, 8 do
      local refused_at = parse('<d', refusals, at)
      if refused_at > now then refused_at = now end
      if refused_at + within > now then
        kept[number], number = pack('<d', refused_at), number + 1
      end
    end
    kept[number] = pack('<d', now)
    local lasts = within
    if number >= after then
      local index = blocks < count and blocks or count - 1
      blocks, began, kept = blocks + 1, now, {}
      ends = now + parse('<d', penalties, offset + 32 + index * 8)
    end
    if blocks > 0 then lasts = math.max(lasts, ends + forget_after - now) end
    return pack(HEAD, blocks, began, ends, now + lasts) .. table.concat(kept), lasts
  end
end

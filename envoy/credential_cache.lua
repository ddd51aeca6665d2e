-- Repeats the ext_authz service's own answer for a few seconds, so that most requests need not ask
-- it, and tells the service what only a response shows: a refused token, a redirect to rewrite.
--
-- Envoy runs one of these per worker and per listener, so no entry is ever shared by two listeners.
-- An entry is the whole answer (authority, header, value, header to remove) and is applied whole: a
-- credential never leaves with another authority than the one it was given for.
--
-- A hit is marked in filter state, which no client can write. The mark is set last: when this script
-- fails before, ext_authz is asked. Without mark and without answer there is no route out.
-- Written for `python tools/sync_envoy_lua.py`, which copies it into envoy.yaml.

local MAX_ENTRIES = 8192        -- of each generation; the older one goes when the younger is full
local MAX_AUTHORITY = 300       -- bytes; longer ones are not worth remembering
local MAX_URL = 8192           -- bytes
local MAX_SECONDS = 10          -- whatever the service says
local RENEW_SECONDS = 1         -- before its end one request asks again, so that not all do at once
local CALL_MILLISECONDS = 500   -- a response waits no longer for the service
local CLOCK_BOOTTIME = 7        -- does not jump, and runs on while the machine sleeps (Linux)

local AUTHZ = "envoy.filters.http.ext_authz"
local HIT = "credential_cache.hit"          -- filter state: "hit" LF token_id LF client's authority
local ASKED = "credential_cache.asked"      -- filter state: time LF key

-- Absolute https:// URLs in responses: what stands before the URL, the URL, what stands behind.
local HTTPS = "[Hh][Tt][Tt][Pp][Ss]://"
local REDIRECTS = {
  ["location"] = "^(%s*)(" .. HTTPS .. "%S+)(%s*)$",
  ["content-location"] = "^(%s*)(" .. HTTPS .. "%S+)(%s*)$",
  ["refresh"] = "^([%d%s.]*[;,]%s*[Uu][Rr][Ll]%s*=%s*[\"']?)(" .. HTTPS .. "[^%s\"']+)(.*)$",
}
local PROXY = "proxy-authorization"

local young, old, count = {}, {}, 0

-- Seconds on a clock that never goes back; nil, and then nothing is cached, where there is none.
function now() end
local has_ffi, ffi = pcall(require, "ffi")
if has_ffi then
  pcall(function()
    ffi.cdef "struct sidecar_time { long s, ns; }; int clock_gettime(int, struct sidecar_time *);"
    local time, C = ffi.new("struct sidecar_time"), ffi.C
    if C.clock_gettime(CLOCK_BOOTTIME, time) == 0 then
      now = function()
        C.clock_gettime(CLOCK_BOOTTIME, time)
        return tonumber(time.s) + tonumber(time.ns) / 1e9
      end
    end
  end)
end

-- Everything that a decision depends on, apart from the listener: whether the app has a header of its
-- own, then the authority. The path never matters to an answer that the service allows to keep, and
-- proxy-authorization only where it is the header to be set: see below. (A look at a header costs as
-- much as everything else that a hit does here.)
local function key_of(headers, authority)
  return (headers:get("authorization") and "A" or "-") .. authority
end

local function keep(key, entry)
  if count >= MAX_ENTRIES then
    young, old, count = {}, young, 0
  end
  young[key], count = entry, count + 1    -- `count` may be too high: the generation only ends earlier
end

local function forget(token_id)
  for _, generation in ipairs({ young, old }) do
    for key, entry in pairs(generation) do
      if entry.token_id == token_id then
        generation[key] = nil
      end
    end
  end
end

function envoy_on_request(handle)
  local headers, time = handle:headers(), now()
  local authority = headers:get(":authority")
  if not authority or #authority > MAX_AUTHORITY then
    return
  end
  local key = key_of(headers, authority)
  local entry = time and (young[key] or old[key])
  if entry and entry.header == PROXY and headers:get(PROXY) then
    entry = nil     -- whether the app's own is replaced or kept is the service's to say
  end
  if not entry or time >= entry.renew then
    if entry and time < entry.ends then
      entry.renew = entry.ends        -- this request asks; the others are served until the end
    end
    handle:streamInfo():filterState():set(ASKED, "envoy.string", (time or "") .. "\n" .. key)
    return
  end
  for _, name in ipairs(entry.remove) do
    headers:remove(name)
  end
  if entry.authority ~= authority then
    headers:replace(":authority", entry.authority)
  end
  headers:replace(entry.header, entry.value)      -- and makes Envoy pick the route again
  handle:streamInfo():filterState():set(HIT, "envoy.string", entry.mark)
end

-- Calls the service: gRPC, which is a message after 5 bytes that give its length. Our messages are
-- plain text. Returns nil when there is no answer in time.
local function call(handle, method, text)
  local size = #text
  local prefix = string.char(0, 0, 0, math.floor(size / 256) % 256, size % 256)
  local headers, body = handle:httpCall("ext_authz", {
    [":method"] = "POST",
    [":path"] = "/idtoken_sidecar.v1.Sidecar/" .. method,
    [":authority"] = "ext_authz",
    ["content-type"] = "application/grpc",
    ["te"] = "trailers",
  }, prefix .. text, CALL_MILLISECONDS)
  if headers[":status"] == "200" and body and #body > 5 and body:byte(1) == 0 then
    return body:sub(6)
  end
end

-- Keeps the answer that the service gave to this request, from when it was asked. A refusal also ends
-- what was kept before, but never a later answer.
local function remember(asked, answer)
  local seconds = math.min(tonumber(answer.cache_seconds) or 0, MAX_SECONDS)
  local time, key = asked:match("^(.-)\n(.*)$")
  local present = young[key] or old[key]
  time = tonumber(time)
  if not time or (present and present.asked > time) then
    return
  end
  young[key], old[key] = nil, nil
  if seconds <= 0 or not answer.value or not answer.authority or not answer.header then
    return
  end
  local entry = {
    authority = answer.authority,
    header = answer.header,
    value = answer.value,
    remove = {},
    token_id = answer.token_id or "",
    mark = "hit\n" .. (answer.token_id or "") .. "\n" .. key:sub(2),
    asked = time,
    ends = time + seconds,
    renew = time + math.max(seconds - RENEW_SECONDS, seconds / 2),
  }
  for name in (answer.remove or ""):gmatch("[^,]+") do
    table.insert(entry.remove, name)
  end
  keep(key, entry)
end

-- Makes a redirect to a destination of ours lead back through the sidecar, if the service knows how.
local function rewrite(handle, name, pattern, client_authority)
  local before, url, after = (handle:headers():get(name) or ""):match(pattern)
  if not url or #url > MAX_URL then
    return
  end
  local listener = handle:virtualHost():metadata():get("listener")
  local found = call(handle, "RewriteRedirect", listener .. "\n" .. client_authority .. "\n" .. url)
  if found and not found:find("[%c%s]") then
    handle:headers():replace(name, before .. found .. after)
  end
end

-- Called for a response that refuses the token or leads elsewhere, and after an answer that may be kept
-- or that refused: the matcher around this filter sees to that.
function envoy_on_response(handle)
  local state = handle:streamInfo():filterState()
  local hit, asked = state:get(HIT), state:get(ASKED)
  local answer = not hit and handle:streamInfo():dynamicMetadata():get(AUTHZ) or {}
  if answer.route ~= "tls" and not hit then
    return asked and remember(asked, {})
  end
  local token_id, client_authority = answer.token_id, asked and asked:match("\n.(.*)$")
  if hit then
    token_id, client_authority = hit:match("^hit\n(.-)\n(.*)$")
  end
  local headers = handle:headers()
  local challenge = headers:get(":status") == "401" and headers:get("www-authenticate") or ""
  if token_id and challenge:find("invalid_token", 1, true) then
    forget(token_id)
    call(handle, "TokenRefused", token_id)
  elseif asked then
    remember(asked, answer)
  end
  if client_authority then
    for name, pattern in pairs(REDIRECTS) do
      rewrite(handle, name, pattern, client_authority)
    end
  end
end

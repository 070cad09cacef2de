-- Draws each request from the file REQUESTS (lines of weight, path, token), the same order in every run.
local sums, paths, tokens, sum = {}, {}, {}, 0
for line in io.lines(os.getenv("REQUESTS")) do
    local weight, path, token = line:match("(%S+) (%S+) (%S+)")
    sum = sum + tonumber(weight)
    sums[#sums + 1], paths[#paths + 1], tokens[#tokens + 1] = sum, path, token
end
math.randomseed(7)
request = function()
    local draw, low, high = math.random() * sum, 1, #sums
    while low < high do
        local middle = math.floor((low + high) / 2)
        if sums[middle] < draw then low = middle + 1 else high = middle end
    end
    local headers = tokens[low] ~= "-" and {["Authorization"] = "Bearer " .. tokens[low]} or {}
    return wrk.format("GET", paths[low], headers)
end
dofile(os.getenv("REPORT"))

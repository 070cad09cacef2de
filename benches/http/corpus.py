"""A corpus of the size that the usual stack is asked for, put into a running hifz: surahs of about 100 kB, a list of
reciters of 500 kB and one of translations of 200 kB, 1 000 users with bookmarks of 10 kB.

corpus.py URL ADMIN_TOKEN JWT_SECRET BODIES REQUESTS: writes the bodies as hifz serves them into the folder BODIES, one file a
key, and into the file REQUESTS what to ask: one line each, weight, path, token.
"""

import base64
import hashlib
import hmac
import http.client
import json
import os
import sys
import time
import urllib.parse

USERS = 1000
url, admin_token, secret, bodies, requests = sys.argv[1:]
connection = http.client.HTTPConnection(urllib.parse.urlsplit(url).netloc, timeout=60)


def ask(method, path, token=None, body=None):
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    if body is not None:
        headers["Content-Type"] = "application/json"
        body = json.dumps(body, ensure_ascii=False).encode()
    connection.request(method, path, body=body, headers=headers)
    answer = connection.getresponse()
    text = answer.read()
    if answer.status >= 300:
        sys.exit(f"{method} {path}: {answer.status} {text[:300]!r}")
    return text


def token_of(user):
    def part(data):
        return base64.urlsafe_b64encode(data).rstrip(b"=")

    head = part(json.dumps({"alg": "HS256", "typ": "JWT"}).encode())
    claims = part(json.dumps({"sub": user, "exp": int(time.time()) + 86400}).encode())
    signed = head + b"." + claims
    signature = hmac.new(secret.encode(), signed, hashlib.sha256).digest()
    return (signed + b"." + part(signature)).decode()


def words(count_bytes, seed):
    """Text that compresses about as prose does: words out of a few thousand, drawn by a generator with a fixed seed."""
    out, length, state = [], 0, seed * 2654435761 % (1 << 32)
    while length < count_bytes:
        state = (state * 1103515245 + 12345) % (1 << 31)
        word = base64.b32encode((state >> 12).to_bytes(4, "big") * 2).decode().lower()[: 3 + state % 7]
        out.append(word)
        length += len(word) + 1
    return " ".join(out)[:count_bytes].strip()


kept = []


def keep(key, weight, path, token=None):
    body = ask("GET", path, token)
    with open(os.path.join(bodies, key), "wb") as file:
        file.write(body)
    kept.append((weight, path, token or "-"))
    return len(body)


os.makedirs(bodies, exist_ok=True)
sizes = []
for number in range(1, 115):
    surah = json.loads(ask("GET", f"/api/v1/surahs/{number}"))
    for at, ayah in enumerate(surah["ayahs"]):
        ayah["text"] = words(min(16_000, 99_000 // len(surah["ayahs"]) - 30), number * 1000 + at)
    ask("PUT", f"/admin/v1/surahs/{number}", admin_token, surah)
    sizes.append(keep(f"quran:surah:{number}", 0.7 / 114, f"/api/v1/surahs/{number}"))
for number in range(1900):
    name = words(480, number)
    reciter = {"id": f"r{number}", "name": name, "name_arabic": "قارئ", "style": "murattal", "riwayah": "hafs"}
    ask("PUT", f"/admin/v1/reciters/r{number}", admin_token, reciter)
    if number % 50 == 0 and len(ask("GET", "/api/v1/reciters")) >= 500_000:
        break
for number in range(180):
    text = [words(400, number * 3 + at) for at in range(3)]
    translation = dict(zip(("name", "source", "licence"), text))
    translation.update(id=f"t{number}", language="en", direction="ltr")
    ask("PUT", f"/admin/v1/translations/t{number}", admin_token, translation)
    if number % 10 == 0 and len(ask("GET", "/api/v1/translations")) >= 200_000:
        break
lists = [
    keep("reciters:list", 0.05, "/api/v1/reciters"),
    keep("translations:list", 0.05, "/api/v1/translations"),
]
for user in range(USERS):
    path, token = f"/api/v1/users/u{user}/bookmarks", token_of(f"u{user}")
    notes = [{"surah": 2, "ayah": at, "note": words(40, user * 100 + at)} for at in range(1, 97)]
    ask("PUT", path, token, {"bookmarks": notes})
    own = keep(f"user:u{user}:bookmarks", 0.2 / USERS, path, token)
with open(requests, "w") as file:
    file.writelines(f"{weight:.9f} {path} {token}\n" for weight, path, token in kept)
print(f"surahs {min(sizes)} to {max(sizes)} bytes, {sum(sizes) // 114} on average; lists {lists}; bookmarks {own}")

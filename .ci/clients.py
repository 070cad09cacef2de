"""The clients people use, against a running server (HIFZ_URL, HIFZ_TOKEN): httpx, requests, curl.

Also reads the metrics with Prometheus's own parser and checks the description and its examples with the reference
validators.
"""

import json
import os
import subprocess

import httpx
import jsonschema
import requests
from openapi_spec_validator import validate
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families as prometheus

URL = os.environ["HIFZ_URL"]
ADMIN = {"Authorization": "Bearer " + os.environ["HIFZ_TOKEN"]}
SURAH = URL + "/api/v1/surahs/2"


def check(condition, what):
    if not condition:
        raise SystemExit(f"FAILED: {what}")
    print(f"  ok  {what}")


def with_requests():
    print("requests")
    session = requests.Session()
    first = session.get(SURAH)
    check(first.status_code == 200 and len(first.json()["ayahs"]) == 286, "a surah is read")
    plain = session.get(SURAH, headers={"Accept-Encoding": "identity"})
    check(plain.json() == first.json(), "the same text in whatever coding it came")
    check("hit" in plain.headers["Cache-Status"], "the second time it is a hit")
    again = session.get(SURAH, headers={"If-None-Match": first.headers["ETag"]})
    check(again.status_code == 304 and not again.content, "304 for the tag it came with")
    dated = session.get(SURAH, headers={"If-Modified-Since": first.headers["Last-Modified"]})
    check(dated.status_code == 304, "304 for the date it came with")
    part = session.get(SURAH, headers={"Range": "bytes=0-9", "Accept-Encoding": "identity"})
    check(part.status_code == 206 and part.content == plain.content[:10], "ten bytes by Range")
    check(part.headers["Content-Range"] == f"bytes 0-9/{len(plain.content)}", "with their place")
    head = session.head(SURAH, headers={"Accept-Encoding": "identity"})
    check(head.headers["Content-Length"] == str(len(plain.content)) and not head.content, "HEAD is GET without a body")
    missing = session.get(URL + "/api/v1/surahs/115")
    check(missing.headers["Content-Type"] == "application/problem+json", "an error is a problem document")
    refused = session.put(URL + "/admin/v1/surahs/2", json={})
    check(refused.status_code == 401, "no change without the token")
    surah = session.get(URL + "/api/v1/surahs/108").json()
    surah["ayahs"][0]["text"] += " *"
    changed = session.put(URL + "/admin/v1/surahs/108", json=surah, headers=ADMIN)
    check(changed.status_code == 200, "a change with the token")
    seen = session.get(URL + "/api/v1/surahs/108").json()
    check(seen["ayahs"] == surah["ayahs"], "is seen by the next read")


def with_httpx():
    print("httpx")
    with httpx.Client() as client:
        bodies = {}
        for coding in ["identity", "gzip", "br", "zstd"]:
            answer = client.get(SURAH, headers={"Accept-Encoding": coding})
            used = answer.headers.get("Content-Encoding", "identity")
            check(answer.status_code == 200 and used in (coding, "identity"), f"{coding} is answered by {used}")
            bodies[coding] = answer.json()
        check(all(body == bodies["identity"] for body in bodies.values()), "the same text in every coding")
        lines = client.get(URL + "/api/v1/surahs", params={"utm_source": "x"})
        check(len(lines.json()["surahs"]) == 114, "unknown parameters change nothing")
    # Prior knowledge: cleartext HTTP/2 without asking first.
    with httpx.Client(http1=False, http2=True) as client:
        answer = client.get(SURAH)
        check(answer.http_version == "HTTP/2" and answer.status_code == 200, "HTTP/2 by prior knowledge")


def with_curl():
    print("curl")

    def curl(*arguments):
        done = subprocess.run(["curl", "-sS", *arguments], capture_output=True, check=True)
        return done.stdout

    plain = json.loads(curl(SURAH))
    check(json.loads(curl("--compressed", SURAH)) == plain, "--compressed gives the same")
    check(b"HTTP/2 200" in curl("--http2-prior-knowledge", "-i", SURAH)[:20], "--http2-prior-knowledge is spoken")
    part = curl("-r", "0-9", "-H", "Accept-Encoding: identity", SURAH)
    check(len(part) == 10, "-r takes a part")
    pages = curl("-o", "/dev/null", "-w", "%{http_code} %{content_type} ", URL + "/docs", "-o", "/dev/null", URL + "/")
    check(pages == b"200 text/html; charset=utf-8 200 application/json ", "the pages have their types")


def figures():
    print("metrics and stats")
    text = requests.get(URL + "/metrics").text
    families = {family.name for family in prometheus(text)}
    check({"hifz_cache_hits", "hifz_memory_resident_bytes", "hifz_hit_seconds"} <= families, "Prometheus reads them")
    text = requests.get(URL + "/metrics", headers={"Accept": "application/openmetrics-text"}).text
    check({family.name for family in open_metrics(text)} == families, "and the same as OpenMetrics")
    stats = requests.get(URL + "/admin/v1/stats", headers=ADMIN).json()
    check(stats["hits"] > 0 and 0 < stats["hit_ratio"] < 1, "stats count")


def description():
    print("description")
    document = requests.get(URL + "/openapi.json").json()
    validate(document)
    check(True, "is OpenAPI 3.1")
    examples = 0

    def checked(schema, example):
        nonlocal examples
        whole = {"$schema": "https://json-schema.org/draft/2020-12/schema", "components": document["components"], **schema}
        jsonschema.validate(example, whole)
        examples += 1

    for schema in document["components"]["schemas"].values():
        if "example" in schema:
            checked(schema, schema["example"])
    for parameter in document["components"]["parameters"].values():
        if "example" in parameter:
            checked(parameter["schema"], parameter["example"])
    for path in document["paths"].values():
        for operation in path.values():
            for response in operation["responses"].values():
                for content in response.get("content", {}).values():
                    if "example" in content:
                        checked(content["schema"], content["example"])
    check(examples > 100, f"all {examples} examples keep their schemas")


with_requests()
with_httpx()
with_curl()
figures()
description()

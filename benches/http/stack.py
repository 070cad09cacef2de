"""The usual stack for comparison: Django views over django-redis, as gunicorn serves them.

Each view reads its object from Redis and answers it as JSON; nothing else is asked of it: no database, no sessions, no
user tokens, no conditional requests, no compression. Filled once by `fill`, from the bodies that hifz serves.
"""

import os
import sys

import django
from django.conf import settings
from django.core.cache import cache
from django.core.wsgi import get_wsgi_application
from django.http import Http404, HttpResponse, JsonResponse
from django.urls import path

settings.configure(
    SECRET_KEY="a bench keeps no secrets",
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    DEFAULT_CHARSET="utf-8",
    CACHES={
        "default": {
            "BACKEND": "django_redis.cache.RedisCache",
            "LOCATION": os.environ["REDIS_URL"],
            "TIMEOUT": None,
        }
    },
)
django.setup()


def view(name):
    def answer(_request, **parts):
        found = cache.get(name.format(**parts))
        if found is None:
            raise Http404
        # Kept as an object, as most code does, or as rendered bytes, which is the least a view can do.
        if isinstance(found, bytes):
            return HttpResponse(found, content_type="application/json")
        return JsonResponse(found, json_dumps_params={"ensure_ascii": False})

    return answer


urlpatterns = [
    path("api/v1/surahs/<int:number>", view("quran:surah:{number}")),
    path("api/v1/reciters", view("reciters:list")),
    path("api/v1/translations", view("translations:list")),
    path("api/v1/users/<str:user>/bookmarks", view("user:{user}:bookmarks")),
]
application = get_wsgi_application()


def fill(bodies, is_rendered):
    """`bodies` is a folder with one file a key."""
    import json

    for key in os.listdir(bodies):
        with open(os.path.join(bodies, key), "rb") as file:
            body = file.read()
        cache.set(key, body if is_rendered else json.loads(body))


if __name__ == "__main__":
    fill(sys.argv[2], sys.argv[1] == "rendered")

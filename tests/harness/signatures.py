"""Requests signed by botocore, for the unit tests of the controller's own check.

`python -m harness.signatures > ../controller/src/auth/botocore.json` (in tests/) writes them anew.
"""

from __future__ import annotations

import base64
import datetime
import json
from unittest import mock
from urllib.parse import urlsplit

from botocore.auth import SigV4Auth, SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

KEY = ("HRTHEXAMPLEEXAMPLE22", "0123456789abcdefghijABCDEFGHIJ0123456789")
REGION = "eu-central-1"
NOW = datetime.datetime(2026, 11, 22, 8, 0, 0, tzinfo=datetime.timezone.utc)
HOST = "http://hearth.example:9070"
FUNCTIONS = "/2015-03-31/functions"

#: name, method, path and query, headers, body, seconds of a presigned URL
CASES = [
    ("a list", "GET", FUNCTIONS + "/", {}, b"", None),
    ("a query in another order", "GET", FUNCTIONS + "?MaxItems=10&Marker=a", {}, b"", None),
    ("a query with escapes", "GET", FUNCTIONS + "?Marker=a%20b%2Fc%3D%C3%BC&A=~", {}, b"", None),
    ("a parameter without a value", "GET", FUNCTIONS + "?list-type=&x", {}, b"", None),
    ("a parameter given twice", "GET", FUNCTIONS + "?a=2&a=1&a-=0", {}, b"", None),
    ("no path", "GET", "", {}, b"", None),
    ("dots in the path", "GET", FUNCTIONS + "//./x/../f", {}, b"", None),
    ("a path of other letters", "GET", "/f%C3%BCr/a%2Fb/c~d", {}, b"", None),
    (
        "an invocation",
        "POST",
        FUNCTIONS + "/f/invocations",
        {"X-Amz-Log-Type": "Tail", "X-Amz-Client-Context": "e30="},
        b'{"n": 1}',
        None,
    ),
    (
        "an ARN and a qualifier",
        "POST",
        FUNCTIONS
        + "/arn%3Aaws%3Alambda%3Aeu-central-1%3A000000000000%3Afunction%3Af/invocations"
        + "?Qualifier=%24LATEST",
        {},
        b"{}",
        None,
    ),
    (
        "blanks in headers",
        "POST",
        FUNCTIONS + "/f/invocations",
        {"X-Amz-Log-Type": "  Tail ", "My-Header": "a   b  \t c", "Content-Type": "text/x"},
        b"",
        None,
    ),
    ("a body of any bytes", "PUT", FUNCTIONS + "/f/code", {}, bytes(range(256)), None),
    ("HTTP's date", "GET", FUNCTIONS, {"Date": "replaced by botocore"}, b"", None),
    (
        "the body's hash in a header",
        "POST",
        FUNCTIONS + "/f/invocations",
        {
            "X-Amz-Content-SHA256": (
                "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
            )
        },
        b"{}",
        None,
    ),
    ("a presigned URL", "GET", FUNCTIONS + "?MaxItems=10", {}, b"", 3600),
    ("a presigned invocation", "POST", FUNCTIONS + "/f/invocations", {}, b"", 1),
    (
        "a presigned invocation with headers",
        "POST",
        FUNCTIONS + "/f/invocations?Qualifier=live",
        {"X-Amz-Log-Type": "Tail", "X-Amz-Invocation-Type": "RequestResponse"},
        b"",
        604800,
    ),
]


def signed(
    method: str,
    url: str,
    headers: dict[str, str],
    body: bytes,
    *,
    key: tuple[str, str] = KEY,
    region: str = REGION,
    service: str = "lambda",
    now: datetime.datetime | None = None,
    expires: int | None = None,
    token: str | None = None,
) -> AWSRequest:
    """The request as botocore signs it: in its header, or for `expires` seconds in its URL."""
    now = now or datetime.datetime.now(datetime.timezone.utc)
    request = AWSRequest(method=method, url=url, headers=headers, data=body)
    credentials = Credentials(*key, token)
    if expires is None:
        signer = SigV4Auth(credentials, service, region)
    else:
        signer = SigV4QueryAuth(credentials, service, region, expires=expires)
    with mock.patch("botocore.auth.get_current_datetime", return_value=now):
        signer.add_auth(request)
    return request


def cases() -> list[dict]:
    """Every case as the unit tests read it."""
    made = []
    for name, method, target, headers, body, expires in CASES:
        request = signed(method, HOST + target, headers, body, now=NOW, expires=expires)
        url = urlsplit(request.url)
        made.append(
            {
                "name": name,
                "method": method,
                "target": (url.path or "/") + (f"?{url.query}" if url.query else ""),
                "headers": [["Host", url.netloc], *map(list, request.headers.items())],
                "body": base64.b64encode(body).decode(),
                "expires": expires,
            }
        )
    return made


def document() -> str:
    return json.dumps(
        {
            "id": KEY[0],
            "secret": KEY[1],
            "region": REGION,
            "now": NOW.strftime("%Y%m%dT%H%M%SZ"),
            "cases": cases(),
        },
        indent=1,
    )


if __name__ == "__main__":
    print(document())

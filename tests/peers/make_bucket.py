"""Makes a bucket called `bucket` on a test server: make_bucket.py HOST:PORT, for Azure with account and key behind it."""

import base64
import email.utils
import hashlib
import hmac
import sys
import urllib.request


def azure_headers(account, key):
    """The headers of Put Container, signed with the account's key (Azure's "Authorize with Shared Key")."""
    headers = {"x-ms-date": email.utils.formatdate(usegmt=True), "x-ms-version": "2021-12-02"}
    canonical = "".join(f"{name}:{value}\n" for name, value in sorted(headers.items()))
    # The account stands in the path of a stand-in's URL, and so twice in the resource.
    text = "PUT" + "\n" * 12 + canonical + f"/{account}/{account}/bucket\nrestype:container"
    signature = base64.b64encode(hmac.new(base64.b64decode(key), text.encode(), hashlib.sha256).digest()).decode()
    return {**headers, "Authorization": f"SharedKey {account}:{signature}"}


def main():
    """Sends the one request; an answer that is no success ends in an error."""
    address, *azure = sys.argv[1:]
    path, headers = "bucket", {}
    if azure:
        path, headers = f"{azure[0]}/bucket?restype=container", azure_headers(*azure)
    headers["Content-Type"] = ""
    headers["Content-Length"] = "0"
    urllib.request.urlopen(urllib.request.Request(f"http://{address}/{path}", method="PUT", headers=headers)).close()


if __name__ == "__main__":
    main()

"""Asks a server for an answer, within a time limit."""

import threading


def probe(url: str, *, timeout: float, method: str = "HEAD") -> int | str:
    """The HTTP status code of a server's answer, or the reason why there is none.

    Takes at most `timeout` seconds, including redirects and name resolution.
    """
    import requests

    answer: list[int | str] = ["no answer"]

    def ask() -> None:
        try:
            options = {"timeout": timeout, "allow_redirects": True, "stream": True}
            with requests.request(method, url, **options) as response:
                answer[0] = response.status_code
        except Exception as error:  # else the thread would print a traceback
            answer[0] = type(error).__name__

    # A name server that hangs ignores every timeout, so the thread can only be left behind.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(timeout)
    return answer[0]

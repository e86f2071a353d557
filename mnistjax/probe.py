"""Asks a server for an answer, within a time limit."""

from __future__ import annotations

import threading


def probe(url: str, *, timeout: float, method: str = "HEAD") -> int | str:
    """The HTTP status code that a server answers with, or the reason why there is no answer.

    Takes at most `timeout` seconds, with redirects and name resolution.
    """
    import requests

    answer: list[int | str] = ["no answer"]

    def ask() -> None:
        try:
            options = {"timeout": timeout, "allow_redirects": True, "stream": True}
            with requests.request(method, url, **options) as response:
                answer[0] = response.status_code
        except Exception as error:  # no error of a probe may reach a thread's traceback
            answer[0] = type(error).__name__

    # A name server that hangs ignores every timeout: the thread can't be stopped, only left behind.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(timeout)
    return answer[0]

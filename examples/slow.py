"""Works for a while, tells how far it is, and stops when its caller cancels the task.

A plain function cannot be interrupted, so it looks at `turn.canceled`; a coroutine gets asyncio.CancelledError instead.

perdure serve examples/slow.py
curl -N localhost:3773 -H 'content-type: application/json' -d '{"jsonrpc": "2.0", "id": 1, "method": "message/stream",
  "params": {"message": {"messageId": "1", "role": "user", "parts": [{"kind": "text", "text": "20"}]}}}'
"""

import time

from perdure import AgentError, bindufy


def handler(messages, turn):
    text = messages[-1]["content"]
    if not text.isdecimal():
        raise AgentError("Tell me for how many seconds to work, such as 20.")
    steps = int(text)
    for step in range(steps):
        if turn.canceled:
            return None
        turn.progress(step / steps, f"step {step + 1} of {steps}")
        time.sleep(1)
    return f"Done after {steps} s."


bindufy({"name": "slow", "description": "Works for as many seconds as it is told"}, handler)

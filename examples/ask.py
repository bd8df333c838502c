"""Asks back: the task waits, for seconds or for weeks, until its caller answers with the task's id.

perdure serve examples/ask.py
curl localhost:3773 -H 'content-type: application/json' -d '{"jsonrpc": "2.0", "id": 1, "method": "message/send",
  "params": {"message": {"messageId": "1", "role": "user", "parts": [{"kind": "text", "text": "What is the weather?"}]}}}'
Answer with the id of the task: the same call, with "messageId": "2", "taskId": "<the id>" and the text "Lisbon".
"""

from perdure import InputRequired, Rejected, bindufy


def handler(messages):
    said = [message["content"] for message in messages if message["role"] == "user"]
    if "stock" in said[0].lower():
        raise Rejected("I only talk about the weather.")
    if len(said) == 1:
        raise InputRequired("Which city?")
    return {"city": said[-1], "weather": "sunny", "celsius": 21}


bindufy({"name": "ask", "description": "Tells the weather and asks for the city"}, handler)

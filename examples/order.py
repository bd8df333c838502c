"""Takes an order: asks where to send it, and charges for it in a step, so that nobody is charged twice. Its tests: test_order.py.

perdure serve examples/order.py
"""

from perdure import InputRequired, bindufy


async def charge(goods):  # here: a call to a payment service
    return f"receipt for {goods}"


async def handler(messages, turn):
    said = [message["content"] for message in messages if message["role"] == "user"]
    if len(said) == 1:
        raise InputRequired("Where shall I send it?")
    goods, address = said
    receipt = await turn.step("charge", charge, goods)
    return f"{receipt}, to {address}"


agent = bindufy({"name": "order", "description": "Takes an order and asks where to send it"}, handler)

"""Two skills in one agent: the card tells what each of them takes, and a message's data becomes the arguments of its function.

perdure serve examples/skills.py
perdure card examples/skills.py
perdure send --skill forecast '{"city": "Lisbon", "days": 2}'
curl localhost:3773 -H 'content-type: application/json' -d '{"jsonrpc": "2.0", "id": 1, "method": "SendMessage",
  "params": {"message": {"messageId": "1", "role": "ROLE_USER", "metadata": {"skillId": "forecast"},
  "parts": [{"data": {"city": "Lisbon", "days": 2}}]}}}'
"""

from typing import Literal

from perdure import bindufy, skill


@skill(tags=["weather"], examples=["Lisbon", '{"city": "Lisbon", "days": 2, "unit": "F"}'])
def forecast(city: str, days: int = 1, unit: Literal["C", "F"] = "C"):
    """Tells the weather of the next days."""
    degrees = 21 if unit == "C" else 70
    return {"city": city, "forecast": [f"sunny, {degrees} °{unit}"] * days}


@skill(tags=["weather"])
async def compare(cities: list[str], turn):
    """Says in which city it is warmest."""
    turn.progress(0.5, f"looking at {len(cities)} cities")
    return f"It is warmest in {min(cities)}."


bindufy({"name": "weather", "description": "Tells the weather and compares cities"}, [forecast, compare])

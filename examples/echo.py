from perdure import bindufy
config = {"author": "you@example.com", "name": "echo", "description": "Repeats what it is told",
          "deployment": {"url": "http://localhost:3773", "expose": True}, "skills": ["skills/question-answering"]}
def handler(messages): return messages[-1]["content"]
agent = bindufy(config, handler)

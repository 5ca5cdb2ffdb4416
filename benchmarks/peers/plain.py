"""A FastAPI handler that calls the model for each request: uvicorn benchmarks.peers.plain:app"""

from fastapi import FastAPI
from pydantic import BaseModel

from benchmarks.peers.model import Model

app = FastAPI()
model = Model.open()


class Request(BaseModel):
    user_id: int
    history: list[int]
    top_n: int = 100


class Response(BaseModel):
    items: list[int]
    scores: list[float]


@app.post("/recall")
def recall(request: Request) -> Response:
    [answer] = model.answer([request.history], request.top_n)
    return Response.model_validate(answer)

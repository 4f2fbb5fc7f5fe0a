"""openai for Python, unchanged but for the base URL, against a running proxy whose models play known parts.

Run by tests/clients/python.test.ts, which sets OPENAI_BASE_URL and OPENAI_API_KEY.
"""

import asyncio
import unittest

import openai
from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel

HELLO = [{"role": "user", "content": "Hello"}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


class Event(BaseModel):
    name: str
    people: list[str]


class Chat(unittest.TestCase):
    def setUp(self):
        self.client = OpenAI(max_retries=0)
        self.addCleanup(self.client.close)

    def test_create(self):
        answer = self.client.chat.completions.create(model="greeter", messages=HELLO, temperature=0)
        self.assertEqual(answer.choices[0].message.content, "Hello there")
        self.assertEqual(answer.choices[0].finish_reason, "stop")
        self.assertEqual((answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens), (7, 3, 10))
        self.assertTrue(answer._request_id.startswith("req_"))

    def test_stream(self):
        stream = self.client.chat.completions.create(
            model="greeter", messages=HELLO, stream=True, stream_options={"include_usage": True}
        )
        chunks = list(stream)
        pieces = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices and chunk.choices[0].delta.content]
        self.assertEqual(pieces, ["Hello", " there"])
        self.assertEqual(len({chunk.id for chunk in chunks}), 1)
        self.assertEqual(chunks[-1].usage.total_tokens, 10)

    def test_stream_helper(self):
        with self.client.chat.completions.stream(model="caller", messages=HELLO, tools=[WEATHER]) as stream:
            for _ in stream:
                pass
            final = stream.get_final_completion()
        message = final.choices[0].message
        self.assertEqual((message.role, message.content), ("assistant", "I look."))
        self.assertEqual([call.function.arguments for call in message.tool_calls], ['{"city":"Bern"}', '{"city":"Rom"}'])
        self.assertEqual([call.id for call in message.tool_calls], ["call_1", "call_2"])
        self.assertEqual(final.choices[0].finish_reason, "tool_calls")

    def test_strange_characters_survive_a_stream(self):
        stream = self.client.chat.completions.create(model="poet", messages=HELLO, stream=True)
        text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
        self.assertEqual(text, "a\u2028b\u2029c\u0085d\0e\r\nf🦙")

    def test_thinking(self):
        answer = self.client.chat.completions.create(model="thinker", messages=HELLO, reasoning_effort="low")
        self.assertEqual(answer.choices[0].message.reasoning_content, "Let me see.")
        self.assertEqual(answer.choices[0].message.content, "42")

    def test_parse(self):
        answer = self.client.chat.completions.parse(model="planner", messages=HELLO, response_format=Event)
        self.assertEqual(answer.choices[0].message.parsed, Event(name="Fair", people=["Ann"]))

    def test_parse_stream(self):
        with self.client.chat.completions.stream(model="planner", messages=HELLO, response_format=Event) as stream:
            final = stream.get_final_completion()
        self.assertEqual(final.choices[0].message.parsed, Event(name="Fair", people=["Ann"]))

    def test_raw_response(self):
        raw = self.client.chat.completions.with_raw_response.create(model="greeter", messages=HELLO)
        self.assertEqual(raw.headers["openai-version"], "2020-10-01")
        self.assertEqual(raw.parse().choices[0].message.content, "Hello there")

    def test_legacy_completions(self):
        answer = self.client.completions.create(model="greeter", prompt="a", echo=True)
        self.assertEqual(answer.choices[0].text, "aHello there")


class Rest(unittest.TestCase):
    def setUp(self):
        self.client = OpenAI(max_retries=0)
        self.addCleanup(self.client.close)

    def test_models(self):
        ids = [model.id for model in self.client.models.list()]
        self.assertIn("hf.co/org/name:q4", ids)
        self.assertEqual(self.client.models.retrieve("greeter").id, "greeter")

    def test_embeddings(self):
        packed = self.client.embeddings.create(model="embedder", input=["one", "two"])
        floats = self.client.embeddings.create(model="embedder", input=["one", "two"], encoding_format="float")
        self.assertEqual([item.index for item in packed.data], [0, 1])
        for one, other in zip(packed.data, floats.data):
            self.assertTrue(all(abs(a - b) < 1e-6 for a, b in zip(one.embedding, other.embedding)))

    def test_errors(self):
        create = self.client.chat.completions.create
        with self.assertRaises(openai.BadRequestError) as bad:
            create(model="greeter", messages=[])
        self.assertEqual((bad.exception.param, bad.exception.code), ("messages", "empty_array"))
        with self.assertRaises(openai.NotFoundError) as missing:
            create(model="nobody", messages=HELLO)
        self.assertEqual(missing.exception.code, "model_not_found")
        self.assertTrue(missing.exception.request_id.startswith("req_"))
        with self.assertRaises(openai.AuthenticationError):
            OpenAI(api_key="sk-alice-nonsense", max_retries=0).models.list()
        with self.assertRaises(openai.InternalServerError):
            create(model="broken", messages=HELLO)

    def test_a_stream_that_dies_raises(self):
        with self.assertRaises(openai.APIError) as died:
            for _ in self.client.chat.completions.create(model="dying", messages=HELLO, stream=True):
                pass
        self.assertEqual(died.exception.code, "upstream_error")

    def test_a_timeout_raises(self):
        with self.assertRaises(openai.APITimeoutError):
            self.client.with_options(timeout=0.2).chat.completions.create(model="silent", messages=HELLO)


class Async(unittest.TestCase):
    def test_create_stream_and_parse(self):
        async def run():
            async with AsyncOpenAI(max_retries=0) as client:
                answer = await client.chat.completions.create(model="greeter", messages=HELLO)
                self.assertEqual(answer.choices[0].message.content, "Hello there")
                text = ""
                async for chunk in await client.chat.completions.create(model="greeter", messages=HELLO, stream=True):
                    text += chunk.choices[0].delta.content or ""
                self.assertEqual(text, "Hello there")
                parsed = await client.chat.completions.parse(model="planner", messages=HELLO, response_format=Event)
                self.assertEqual(parsed.choices[0].message.parsed, Event(name="Fair", people=["Ann"]))
                many = await asyncio.gather(
                    *(client.chat.completions.create(model="greeter", messages=HELLO) for _ in range(10))
                )
                self.assertEqual({one.usage.total_tokens for one in many}, {10})

        asyncio.run(run())


if __name__ == "__main__":
    unittest.main(verbosity=2)

"""A workflow for tests of what all workflows share: it does what its input says, word by word."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

from temporalio import workflow

from gateway.jobs.models import Compensation, JobContext, JobError
from gateway.jobs.workflows import causes
from gateway.jobs.workflows.tracking import TrackedWorkflow


@workflow.defn(name="walking")
class Walking(TrackedWorkflow):
    """Does what its input says, word by word."""

    def __init__(self) -> None:
        super().__init__()
        self.go = asyncio.Event()

    @workflow.signal
    def went(self) -> None:
        self.go.set()

    @workflow.run
    async def run(self, context: JobContext, words: list[str]) -> Any:
        return await self.conduct(context, lambda: self.walk(words))

    def may_skip(self, step_id: str) -> bool:
        return step_id != "ask"

    async def walk(self, words: list[str]) -> Any:
        self.tracker.plan([word for word in words if word != "undo"])
        undo = "undo" in words
        try:
            for word in words:
                await self.may_go_on()
                if self.skipped(word):
                    self.tracker.end(word, "skipped")
                elif word != "undo":
                    await self.step(word)
        except BaseException as error:
            if not undo:
                raise
            self.tracker.begin("first")
            await workflow.sleep(0.01)
            self.tracker.end("first", "compensated")
            raise causes.failure(
                causes.error_of(error, "late"),
                compensations=[Compensation("first", "done")],
                errors=[JobError("EXTERNAL", "beside")],
            ) from None
        return {"words": len(words)}

    async def step(self, word: str) -> None:
        self.tracker.begin(word)
        if word == "ask":
            self.tracker.asked("q1", "May I?", word, "2030-01-01T00:00:00.000Z")
            decision = await self.decision("q1", workflow.now() + timedelta(seconds=30))
            assert decision is not None
            self.tracker.decided()
            self.tracker.progress(0.9, str(decision.response))
        if word == "late":
            self.tracker.decided()
            if await self.decision("never", workflow.now() + timedelta(seconds=0.01)) is None:
                self.tracker.progress(0.1, "nobody said a word")
        if word == "wait":
            await self.go.wait()
        if word == "along":
            await self.announcer.flushed()
            self.announcer.hold()
            self.tracker.progress(0.5, "not told along")
            for _ in range(2):
                with self.announcer.along():
                    pass
        if word == "fail":
            error = JobError("EXTERNAL", "it failed", word, 500)
            self.tracker.end(word, "failed", error, 3)
            raise causes.failure(error)
        if word == "bug":
            raise KeyError("personal data of somebody")
        if word == "many":
            for number in range(250):
                self.tracker.begin(f"many-{number}")
        self.tracker.end(word, "completed")

"""Somebody is told how a flow ended; whether they can be told changes nothing else."""

import logging
import time
from uuid import uuid4

import pytest
from prefect.client.schemas.objects import FlowRun
from prefect.states import Completed, Failed, State

from flows.release.decision_record import Published
from flows.release.gate import GateReport
from flows.schedule import notify
from tests.flows.receiver import receiver

RUN = FlowRun(flow_id=uuid4(), name="brave-otter")
PUBLISHED = Published(
    version="3", outcome="published", report=GateReport(md5="m", champion="2", against="x", checks=()), run="r"
)


@pytest.mark.parametrize(
    ("state", "text"),
    [
        (Completed(data=PUBLISHED), "retrain brave-otter completed: model version 3 published"),
        (Failed(message="stage train failed"), "retrain brave-otter failed: stage train failed"),
    ],
)
def test_the_end_arrives_as_a_sentence_and_as_facts(monkeypatch: pytest.MonkeyPatch, state: State, text: str) -> None:
    with receiver() as (address, arrived):
        monkeypatch.setenv(notify.WEBHOOK, address)
        notify.notify(None, RUN, state)
    (told,) = arrived
    assert (told["text"], told["run_id"], told["state"]) == (text, str(RUN.id), state.name)
    assert told.get("model_version") == ("3" if state.name == "Completed" else None)


def test_without_an_address_nothing_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(notify.WEBHOOK, raising=False)
    monkeypatch.setattr(notify, "post", lambda *_: pytest.fail("it was"))
    notify.notify(None, RUN, Completed())


@pytest.mark.parametrize("address", ["http://127.0.0.1:9/secret", "no address"])
def test_a_receiver_that_is_not_there_costs_one_warning_that_keeps_the_address_secret(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, address: str
) -> None:
    monkeypatch.setenv(notify.WEBHOOK, address)
    notify.notify(None, RUN, Completed())
    (record,) = [one for one in caplog.records if one.levelno == logging.WARNING]
    assert address not in record.getMessage()


def test_a_receiver_that_refuses_or_does_not_answer_costs_one_warning_and_little_time(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(notify, "SECONDS", 0.3)
    for status, delay in ((500, 0.0), (200, 30.0)):
        with receiver(status, delay) as (address, arrived):
            began = time.monotonic()
            notify.post(address, {"text": "x"})
            assert time.monotonic() - began < 10
            assert arrived == [{"text": "x"}]
    assert len(caplog.records) == 2

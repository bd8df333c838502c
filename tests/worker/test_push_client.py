"""One request to a webhook: to the address that was checked, never further than it, never longer than it may."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from perdure.security.egress import Address, Egress, Refused
from perdure.telling.failures import BROKE_OFF, LATE, NOT_ALLOWED, UNREACHED, failure_for_caller
from tests.support.receiver import Heard, break_off, hang_up, receiving, status
from worker.push.client import Client, NoAnswer

HERE = Egress(http=True, networks=(ip_network("127.0.0.1/32"),))


@pytest.fixture
def client() -> Iterator[Client]:
    client = Client(HERE, timeout=5, max_answer_bytes=2048)
    yield client
    client.close()


class Names:
    """A resolver whose answers are the test's, one after the other; the last one stays."""

    def __init__(self, *answers: Sequence[str]) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []

    async def __call__(self, host: str, port: int) -> Sequence[Address]:
        self.asked.append(host)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return [ip_address(text) for text in answer]


async def test_an_answer_is_read(client: Client) -> None:
    async with receiving(status(201, "thanks", Retry_After="7")) as receiver:
        answer = await client.post(f"{receiver.url}?a=b", {"X-Test": "1"}, b"body")
    assert (answer.status, answer.body, answer.headers["retry-after"]) == (201, b"thanks", "7")
    (heard,) = receiver.heard
    assert (heard.path, heard.body, heard.headers["x-test"]) == ("/hook?a=b", b"body", "1")
    assert heard.headers["host"] == f"127.0.0.1:{receiver.port}"


async def test_a_name_that_is_rebound_after_the_check_is_not_connected_to() -> None:
    """What counts is what is connected to, and there is only one look."""
    async with receiving() as receiver:
        names = Names(["8.8.8.8"], ["127.0.0.1"])
        egress = Egress(http=True, ports=frozenset({receiver.port}))
        client = Client(egress, timeout=5, max_answer_bytes=100, resolve=names)
        assert [str(found) for found in await client._addresses("hook.example", receiver.port)] == ["8.8.8.8"]
        with pytest.raises(Refused):  # public when it was first looked at, inside now
            await client.post(f"http://hook.example:{receiver.port}/", {}, b"")
        assert names.asked == ["hook.example"] * 2
        assert receiver.heard == []
        client.close()


async def test_the_address_that_was_checked_is_connected_to() -> None:
    """Nothing between the check and the connection resolves the name again: it cannot be resolved at all but by the test."""
    async with receiving() as receiver:
        names = Names(["127.0.0.1"], ["10.0.0.1"])
        egress = Egress(http=True, ports=frozenset({receiver.port}), networks=(ip_network("127.0.0.1/32"),))
        client = Client(egress, timeout=5, max_answer_bytes=100, resolve=names)
        answer = await client.post(f"http://hook.example:{receiver.port}/", {}, b"")
        assert answer.status == 200
        assert receiver.heard[0].headers["host"] == f"hook.example:{receiver.port}"
        client.close()


async def test_one_inner_address_among_public_ones_is_enough_to_refuse() -> None:
    client = Client(Egress(), timeout=5, max_answer_bytes=100, resolve=Names(["8.8.8.8", "10.0.0.1"]))
    with pytest.raises(Refused):
        await client.post("https://hook.example/", {}, b"")
    client.close()


async def said(client: Client, url: str) -> str:
    """What its caller is told of an attempt that fails."""
    try:
        await client.post(url, {}, b"")
    except Refused as refused:
        return failure_for_caller(f"the address {refused}")
    except NoAnswer as failure:
        return failure_for_caller(str(failure))
    raise AssertionError("there was an answer")


async def test_a_name_that_does_not_exist_is_told_as_one_that_is_inside() -> None:
    async def unknown(host: str, port: int) -> Sequence[Address]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    for resolve in (unknown, Names([]), Names(["10.0.0.1"]), Names(["8.8.8.8", "10.0.0.1"]), Names(["::1"])):
        client = Client(Egress(), timeout=5, max_answer_bytes=100, resolve=resolve)
        assert await said(client, "https://hook.example/") == UNREACHED
        client.close()


async def test_what_a_caller_is_told_of_real_failures(client: Client) -> None:
    async def nothing(_: Heard, writer: asyncio.StreamWriter) -> None:
        await writer.wait_closed()

    async with receiving(hang_up, nothing) as receiver:
        assert await said(client, receiver.url) == BROKE_OFF
        hasty = Client(HERE, timeout=0.3, max_answer_bytes=100)
        assert await said(hasty, receiver.url) == LATE
        hasty.close()
    assert await said(client, receiver.url) == UNREACHED  # nobody listens there any more
    assert await said(client, "ftp://hook.example/") == NOT_ALLOWED


async def test_an_address_that_is_refused_is_not_even_resolved() -> None:
    names = Names(["8.8.8.8"])
    client = Client(Egress(), timeout=5, max_answer_bytes=100, resolve=names)
    for url in ("http://hook.example", "https://127.0.0.1", "https://0x7f.1", "https://u@hook.example"):
        with pytest.raises(Refused):
            await client.post(url, {}, b"")
    assert names.asked == []
    client.close()


def certified(folder: Path, name: str) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """TLS for a server called `name`, and for a client that trusts it."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = folder / "cert.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    pem.write_bytes(private + certificate.public_bytes(serialization.Encoding.PEM))
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(pem)
    return server, ssl.create_default_context(
        cadata=certificate.public_bytes(serialization.Encoding.PEM).decode()
    )


async def test_tls_is_spoken_to_the_name_at_the_checked_address(tmp_path: Path) -> None:
    server, trusting = certified(tmp_path, "hook.example")
    named: list[str | None] = []
    server.sni_callback = lambda _socket, name, _context: named.append(name)
    async with receiving(tls=server) as receiver:
        egress = Egress(ports=frozenset({receiver.port}), networks=(ip_network("127.0.0.1/32"),))
        client = Client(egress, timeout=5, max_answer_bytes=100, resolve=Names(["127.0.0.1"]), tls=trusting)
        assert (await client.post(f"https://hook.example:{receiver.port}/", {}, b"")).status == 200
        assert named == ["hook.example"]
        with pytest.raises(NoAnswer):  # it cannot show a certificate for that one
            await client.post(f"https://other.example:{receiver.port}/", {}, b"")
        client.close()
    assert len(receiver.heard) == 1


async def test_a_redirect_is_not_followed(client: Client) -> None:
    async with receiving() as elsewhere, receiving(status(307, Location=elsewhere.url)) as receiver:
        assert (await client.post(receiver.url, {}, b"")).status == 307
        assert elsewhere.heard == []


async def test_of_a_long_answer_only_the_head_is_read(client: Client) -> None:
    ended = asyncio.Event()

    async def endless(_: Heard, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        try:
            while True:
                writer.write(b"x" * 10_000)
                await writer.drain()
        finally:
            ended.set()

    async with receiving(endless) as receiver:
        answer = await client.post(receiver.url, {}, b"")
        await ended.wait()
    assert answer.body == b"x" * 2048


@pytest.mark.parametrize("how", [hang_up, break_off])
async def test_a_receiver_that_closes_early_has_not_answered(client: Client, how: object) -> None:
    async with receiving(how) as receiver:  # type: ignore[arg-type]
        with pytest.raises(NoAnswer):
            await client.post(receiver.url, {}, b"")


async def test_a_receiver_that_is_not_there_has_not_answered(client: Client) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        with pytest.raises(NoAnswer):
            await client.post(f"http://127.0.0.1:{free.getsockname()[1]}/", {}, b"")


async def test_a_slow_answer_is_waited_for_so_long_and_no_longer() -> None:
    """Also one that comes a byte at a time."""

    async def trickle(_: Heard, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n")
        while True:
            writer.write(b"X: y\r\n")
            await writer.drain()
            await asyncio.sleep(0.01)

    async def nothing(_: Heard, writer: asyncio.StreamWriter) -> None:
        await writer.wait_closed()

    async with receiving(trickle, nothing) as receiver:
        client = Client(HERE, timeout=0.3, max_answer_bytes=100)
        for _ in range(2):
            with pytest.raises(NoAnswer, match=r"no answer within 0\.3 s|Protocol"):
                await client.post(receiver.url, {}, b"")
        client.close()


async def test_a_name_that_hangs_does_not_keep_others_waiting() -> None:
    async def hangs(host: str, port: int) -> Sequence[Address]:
        if host == "slow.example":
            await asyncio.Event().wait()
        return [ip_address("127.0.0.1")]

    async with receiving() as receiver:
        egress = Egress(http=True, ports=frozenset({receiver.port}), networks=(ip_network("127.0.0.1/32"),))
        client = Client(egress, timeout=1, max_answer_bytes=100, resolve=hangs)
        slow = asyncio.create_task(client.post(f"http://slow.example:{receiver.port}/", {}, b""))
        assert (await client.post(f"http://quick.example:{receiver.port}/", {}, b"")).status == 200
        with pytest.raises(NoAnswer):
            await slow
        client.close()


async def test_everything_goes_through_the_proxy() -> None:
    """The proxy is asked for the name, and resolves it itself: in many networks only it can."""

    async def unknown(host: str, port: int) -> Sequence[Address]:
        raise OSError("no such name")

    async with receiving() as proxy:
        address = f"http://user:p%40ss@127.0.0.1:{proxy.port}"
        egress = Egress(http=True, ports=frozenset({80}))
        client = Client(egress, timeout=5, max_answer_bytes=100, proxy=address, resolve=unknown)
        assert (await client.post("http://hook.example/x", {}, b"")).status == 200
        with pytest.raises(Refused):
            await client.post("http://127.0.0.1/x", {}, b"")
        client.close()
    (heard,) = proxy.heard
    assert heard.path == "http://hook.example:80/x"
    assert heard.headers["proxy-authorization"].startswith("Basic ")

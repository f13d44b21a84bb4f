"""LocalStack listens on every interface of the machine, whatever address GATEWAY_LISTEN names, and goes on without
listening when the port is taken. Here it listens on the named address, or ends.
"""


def apply() -> None:
    from localstack.runtime.server.twisted import TwistedRuntimeServer
    from twisted.internet import endpoints, reactor

    original = TwistedRuntimeServer.register

    class ListeningEndpoint:
        """Stands for TCP4ServerEndpoint within `register`, which does not pass the address on."""

        def __init__(self, address: str, port: int) -> None:
            self._address, self._port = address, port

        def listen(self, factory):
            # Raises CannotListenError, unlike the endpoint, whose error nobody looks at.
            return reactor.listenTCP(self._port, factory, interface=self._address)

    def register(self, gateway, listen, ssl_creds=None):
        for address in listen:
            with _replaced(
                endpoints, "TCP4ServerEndpoint", lambda _reactor, port, host=address.host: ListeningEndpoint(host, port)
            ):
                original(self, gateway, [address], ssl_creds)

    TwistedRuntimeServer.register = register


class _replaced:
    """Gives an attribute another value for the time of a `with` block."""

    def __init__(self, holder, name: str, value) -> None:
        self._holder, self._name, self._value = holder, name, value

    def __enter__(self) -> None:
        self._original = getattr(self._holder, self._name)
        setattr(self._holder, self._name, self._value)

    def __exit__(self, *_) -> None:
        setattr(self._holder, self._name, self._original)

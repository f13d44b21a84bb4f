"""Runs DynamoDB Local in a Java machine inside of this process, listening on the loopback interface only.

DynamoDB Local itself listens on every interface and has no option for it; its server object can be told before it
starts. The system chooses the port, so that two clouds never race for one; it is printed as `PORT n`.

Usage: python -m snapferry_lambda_executor.dynamodb_local JAVA_HOME FOLDER_OF_JARS HEAP
"""

import signal
import sys
from pathlib import Path

import jpype

LOOPBACK = "127.0.0.1"
# Asked for by the command line parser, which takes no 0; replaced before the server starts.
PLACEHOLDER_PORT = "8000"


def serve(java_home: str, jars: str, heap: str) -> None:
    """Starts the server and waits until it ends."""
    jpype.startJVM(
        str(Path(java_home, "lib", "server", "libjvm.so")),
        f"-Xmx{heap}",
        f"-Djava.library.path={jars}",
        "-XX:+UseSerialGC",
        # A signal ends the process at once: an orderly end of Java within Python crashes, and there is nothing to save.
        "-Xrs",
        classpath=[str(jar) for jar in sorted(Path(jars).glob("*.jar"))],
    )
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    runner = jpype.JClass("com.amazonaws.services.dynamodbv2.local.main.ServerRunner")
    server = runner.createServerFromCommandLineArgs(["-port", PLACEHOLDER_PORT, "-inMemory"])
    field = server.getClass().getDeclaredField("server")
    field.setAccessible(True)
    connectors = field.get(server).getConnectors()
    for connector in connectors:
        connector.setHost(LOOPBACK)
        connector.setPort(0)
    server.start()
    print(f"PORT {connectors[0].getLocalPort()}", flush=True)
    server.join()


if __name__ == "__main__":
    serve(*sys.argv[1:])

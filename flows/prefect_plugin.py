"""Lets `prefect deployment run train-rgnn` find its deployment by the bare name, and a local server past any proxy.

Prefect wants `<flow>/<deployment>`. Its plugin system calls `setup_environment` while `prefect` is being imported,
where plugins are switched on: `[tool.prefect.plugins] enabled = true` in the pyproject.toml of the working folder, or
PREFECT_PLUGINS_ENABLED=1, which `vis up` prints. Only the command `prefect` is touched; of names, only those of
`prefect deployment ...` without a slash.
"""

import sys
from pathlib import Path
from typing import Any

from prefect.plugins import HookContext, register_hook

import jobs  # noqa: F401  with `flows`, known before Prefect puts the working folder in front of what is installed
from flows.surroundings import reach_loopback


@register_hook  # `*`: Prefect specifies the hook with a `self`, and pluggy compares positional parameters
def setup_environment(*, ctx: HookContext) -> None:
    program = "prefect" if sys.orig_argv[1:3] == ["-m", "prefect"] else Path(sys.argv[0]).name
    if program == "prefect":
        reach_loopback()
        if {"deployment", "deployments"} & set(sys.argv[1:]):
            _accept_bare_names()


def _accept_bare_names() -> None:
    from prefect.client.orchestration._deployments.client import DeploymentAsyncClient
    from prefect.client.schemas.responses import DeploymentResponse

    by_full_name = DeploymentAsyncClient.read_deployment_by_name

    async def read_deployment_by_name(client: DeploymentAsyncClient, name: str) -> DeploymentResponse:
        return await by_full_name(client, name if "/" in name else await _full_name(client, name))

    DeploymentAsyncClient.read_deployment_by_name = read_deployment_by_name  # type: ignore[assignment, method-assign]


async def _full_name(client: Any, name: str) -> str:
    """`<flow>/<deployment>` of the only deployment called `name`; ends the command when there is none or a choice."""
    from prefect.cli._utilities import exit_with_error
    from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterName

    only = DeploymentFilter(name=DeploymentFilterName(any_=[name]))
    found = await client.read_deployments(deployment_filter=only)
    full_names = [f"{(await client.read_flow(deployment.flow_id)).name}/{name}" for deployment in found]
    if not full_names:
        exit_with_error(f"No deployment is called {name!r}. `prefect deployment ls` lists those there are.")
    if len(full_names) > 1:
        exit_with_error(f"Several deployments are called {name!r}, expected one of: {', '.join(sorted(full_names))}")
    return full_names[0]

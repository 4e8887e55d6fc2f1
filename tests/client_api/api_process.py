"""A Client API over the real local scheduler, as a process: `api_process.py FOLDER [SERVICE=URL]`. Prints its address."""

import asyncio
import sys
from pathlib import Path, PurePosixPath

from groups import Services
from tokenstorm.client_api.app import create_app
from tokenstorm.client_api.manager import ClientManager
from tokenstorm.client_api.services import ServiceInfo
from tokenstorm.client_api.store import Store
from tokenstorm.cluster.opening import open_site
from tokenstorm.config.profile import Profile
from tokenstorm.report.page import try_page
from tokenstorm.web import Server


async def main(folder: Path, url: str) -> None:
    profile = Profile(
        name="local", scheduler="local", base_path=PurePosixPath(folder / "cluster"), python=sys.executable
    )
    site = await open_site(profile)
    store = Store.open(folder / "home" / "client.db")
    services = Services({"sim": ServiceInfo(status="running", engine="simulated")}, url)
    server = Server(
        create_app(ClientManager(site, store, services, folder / "home", make_page=try_page)), "127.0.0.1", 0
    )
    async with server.running():
        print(server.url, flush=True)
        await asyncio.Event().wait()


asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))

"""A headless Chromium for the tests, if it is installed: Debian's packages ``chromium`` and ``chromium-driver``."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
WITHOUT_NETWORK = (
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--proxy-server=127.0.0.1:9",  # nothing listens there: a page that asks the network for something fails
)


def missing() -> str:
    """Return the reason why no browser can be opened, or nothing."""
    try:
        import selenium  # noqa: F401
    except ImportError:
        return "selenium is not installed"
    if not any(map(shutil.which, BROWSERS)):
        return f"none of {', '.join(BROWSERS)} is on the PATH"
    return "" if shutil.which("chromedriver") else "chromedriver is not on the PATH"


@contextmanager
def chromium(profile: Path, width: int = 1280, height: int = 900) -> Iterator["object"]:
    """Open a browser with a fresh profile, no network and a recorded console; close it at the end."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = next(filter(None, map(shutil.which, BROWSERS)))
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    arguments = ["--headless=new", "--disable-gpu", "--hide-scrollbars", f"--user-data-dir={profile}", *WITHOUT_NETWORK]
    if hasattr(os, "geteuid") and os.geteuid() == 0:  # root may not use the sandbox, as in containers
        arguments += ["--no-sandbox", "--disable-dev-shm-usage"]
    for argument in (*arguments, f"--window-size={width},{height}"):
        options.add_argument(argument)
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    try:
        driver.set_script_timeout(180)
        yield driver
    finally:
        driver.quit()


def resize(driver, width: int, height: int = 900) -> None:
    """Give the page another width; below 768 pixels it is shown as on a phone."""
    driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 768},
    )


def console_errors(driver) -> list[str]:
    """Return the errors on the page's console since the last call."""
    return [entry["message"] for entry in driver.get_log("browser") if entry["level"] == "SEVERE"]


def theme(driver, name: str) -> None:
    """Show the page ``light`` or ``dark``, as its own button would, at once."""
    driver.execute_script(
        """
        const still = document.createElement("style");
        still.textContent = "* { transition: none !important }";
        document.head.append(still);
        document.documentElement.dataset.mode = document.documentElement.dataset.theme = arguments[0];
        """,
        name,
    )

"""The modules of scripts/ by name, and stand-ins for pip and venv: no network, no real virtual environment."""

import pytest


@pytest.fixture
def environment(scripts):
    return scripts("environment")


@pytest.fixture
def installing(scripts):
    return scripts("installing")


@pytest.fixture
def processes(scripts):
    return scripts("processes")


@pytest.fixture
def demo(scripts):
    return scripts("demo")


@pytest.fixture
def pip(environment, monkeypatch):
    """Replaces venv and pip. Lists what they were asked for; `failing` names a step that ends with
    `error`, by default as if it were interrupted."""

    class Pip:
        calls, failing, error = [], None, KeyboardInterrupt

        def make_venv(self, folder):
            self.calls.append("venv")
            python = environment.venv_python(folder)
            python.parent.mkdir(parents=True)
            python.touch()

        def install(self, python, step, log, lock):
            assert python.exists() and not (log.parent / environment.STAMP).exists()
            if step.name == self.failing:
                raise self.error
            self.calls.append(step.name)

        def take(self):
            taken, self.calls = self.calls, []
            return taken

    fake = Pip()
    fake.calls = []
    monkeypatch.setattr(environment, "make_venv", fake.make_venv)
    monkeypatch.setattr(environment, "pip_install", fake.install)
    return fake


@pytest.fixture
def steps(environment):
    return tuple(environment.Step(name, name, (f"{name}==1",)) for name in ("torch", "genprop"))

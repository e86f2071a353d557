"""A model that raises, kills its process, hangs or diverges, in the runs that a test picks by their seed."""

import json
import os
import signal
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from mnistjax import to_float

FAULTS = "MNISTJAX_TEST_FAULTS"  # environment variable: a JSON file, {mark: fault}


def act(mark):
    """1, unless the run of this mark has a fault."""
    path = Path(os.environ.get(FAULTS, "none"))
    fault = json.loads(path.read_text()).get(f"{float(mark):.5f}") if path.exists() else None
    if fault == "raise":
        raise ValueError("from inside")
    if fault == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    while fault == "hang":
        time.sleep(0.1)
    return np.float32(np.nan if fault == "diverge" else 1)


class Faulty(nn.Module):
    num_classes: int = 10

    @nn.compact
    def __call__(self, images, train=False):
        mark = self.param("mark", nn.initializers.uniform(1.0), ())
        x = nn.Dense(self.num_classes)(to_float(images).reshape(len(images), -1))
        if not train:
            return x
        shape = jax.ShapeDtypeStruct((), jnp.float32)
        return x * jax.pure_callback(act, shape, jax.lax.stop_gradient(mark), vmap_method="sequential")

"""Two devices in one process, on the CPU; tests/jax_layers/test_parallel.py starts it.

Its argument: the file to leave values and gradients in, by the way they were computed.
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import gapcell.jax as gj
from gapcell import Spec

SPECS = {
    "lstm": Spec(cell="lstm", rank=1, in_channels=2, filters=3, kernel_size=3, bidirectional=True),
    "series": Spec(cell="gru", rank=1, in_channels=2, filters=3, kernel_size=3, window=2),
}


def arguments(spec):
    """Parameters, and a batch of four rows of which one device sees only rows without observations."""
    rng = np.random.default_rng(0)
    cells = [
        {name: rng.normal(size=shape).astype(np.float32) / 2 for name, shape in spec.parameter_shapes(index).items()}
        for index in range(spec.num_layers)
        for _ in range(spec.directions)
    ]
    mask = rng.random((4, 6)) < 0.6
    mask[2:] = False
    shape = (4, 6, 2) if spec.window else (4, 6, 5, 2)
    x = rng.normal(size=shape).astype(np.float32)
    x[~mask] = np.nan
    return (cells if len(cells) > 1 else cells[0]), x, mask


def loss_of(spec):
    def loss(params, x, mask):
        y, last = gj.apply(params, x, spec, mask=mask)
        return jnp.sum(jnp.sin(y)) + sum(jnp.sum(jnp.sin(part)) for part in jax.tree.leaves(last))

    return loss


def ways(spec, mesh):
    """Each gives the summed loss and the gradients of parameters and input, the batch's rows over both devices."""
    loss, rows = loss_of(spec), P("rows")
    over = {"mesh": mesh, "in_specs": (P(), rows, rows)}

    def summed(params, x, mask):
        return jax.lax.psum(loss(params, x, mask), "rows")

    def pulled(params, x, mask):
        value, (of_params, of_x) = jax.value_and_grad(loss, (0, 1))(params, x, mask)
        return jax.lax.psum((value, of_params), "rows"), of_x

    def arranged(params, x, mask):
        (value, of_params), of_x = jax.shard_map(pulled, **over, out_specs=((P(), P()), rows), check_vma=False)(
            params, x, mask
        )
        return value, (of_params, of_x)

    return {
        "sharded jit": jax.value_and_grad(loss, (0, 1)),
        "gradient of shard_map": jax.value_and_grad(jax.shard_map(summed, **over, out_specs=P()), (0, 1)),
        "gradient in shard_map": jax.shard_map(
            jax.value_and_grad(summed, (0, 1)), **over, out_specs=(P(), (P(), rows))
        ),
        "gradient in unchecked shard_map": arranged,
    }


def main(path):
    assert jax.device_count() == 2
    mesh = jax.make_mesh((2,), ("rows",), axis_types=(AxisType.Auto,))
    placed = [NamedSharding(mesh, spec) for spec in (P(), P("rows"), P("rows"))]
    found, failed = {}, []
    for name, spec in SPECS.items():
        given = jax.device_put(arguments(spec), tuple(placed))
        assert len(given[1].sharding.device_set) == 2
        for way, run in ways(spec, mesh).items():
            try:
                leaves = jax.tree.leaves(jax.jit(run)(*given))
            except TypeError as error:
                failed.append(f"{name}, {way}: {error}")
                continue
            found[f"kernel calls/{name}/{way}"] = jax.jit(run).lower(*given).as_text().count("@gapcell_xla")
            found |= {f"{name}/{way}/{index:02}": np.asarray(leaf) for index, leaf in enumerate(leaves)}
    np.savez(path, **found)
    if failed:
        sys.exit("\n".join(failed))


if __name__ == "__main__":
    main(sys.argv[1])

# The variant of octets.h that a kernel uses; included by the kernels that walk.

cdef const Variant* chosen = NULL


def variants():
    """Names of the variants that run on this machine, the best first."""
    cdef Py_ssize_t i
    return tuple([all_variants[i].name.decode() for i in range(VARIANT_COUNT) if all_variants[i].runs_here()])


def variant():
    """The name of the variant in use: the best, unless another was chosen."""
    return chosen.name.decode()


def use_variant(str name not None):
    """Use another variant from now on, to compare them. All find the same.

    Raises:
        ValueError: none of that name runs on this machine.
    """
    global chosen
    cdef Py_ssize_t i
    for i in range(VARIANT_COUNT):
        if all_variants[i].name.decode() == name and all_variants[i].runs_here():
            chosen = &all_variants[i]
            return
    raise ValueError(f"no variant {name!r} here, but {', '.join(variants())}")


use_variant(variants()[0])

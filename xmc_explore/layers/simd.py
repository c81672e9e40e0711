"""Vectors of numbers inside numba kernels.

Numba has scalars and arrays; whether a loop over an array ends up in vector registers is left to luck, and sums that
should stay in registers from one loop to the next do not. A `Vector` is one LLVM value of `width` numbers. LLVM cuts it
into whatever registers the processor has: 64 floats are 4 registers with AVX-512, 8 with AVX2, 16 with NEON. So one
source serves them all, without a C compiler. The width is part of the type, so that a function can be handed a Vector
to say how wide to work (`like`):

    @njit(fastmath={"contract"}, forceinline=True)       # "contract" lets a + b * c become one instruction
    def dot(a, b, n, like):
        sums = like
        for i in range(0, n, width(like)):
            sums = sums + load(a, i, like) * load(b, i, like)
        return total(sums)

    @njit
    def dot64(x, y):
        return dot(at(x, 0), at(y, 0), x.size, splat(np.float32(0), 64))       # 64: a constant

Memory is read and written through pointers, as `at` makes them: numba counts the references of an array that is handed
on, with locked instructions, in the innermost loop. A pointer keeps nothing alive: take it of arguments of the kernel,
not of arrays made inside. Nobody checks positions. Numba's cache looks at the file of a kernel only: after a change
here, touch that file too.
"""

from __future__ import annotations

import math
import operator

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.core.datamodel import models, register_default
from numba.extending import intrinsic, overload
from numpy.polynomial import Chebyshev, Polynomial

INT32 = ir.IntType(32)
# e^r for |r| <= log(2) / 2 to 3e-9, a term fewer than Taylor's series would need for float32 (Chebyshev's points)
SERIES = Chebyshev.interpolate(np.exp, 6, [-math.log(2) / 2, math.log(2) / 2]).convert(kind=Polynomial).coef.tolist()


class Vector(types.Type):
    """The numba type of `width` numbers of one floating dtype."""

    def __init__(self, dtype: types.Float, width: int):
        self.dtype, self.width = dtype, width
        super().__init__(name=f"Vector({dtype}, {width})")

    @property
    def ir(self) -> ir.VectorType:
        return ir.VectorType(ir.FloatType() if self.dtype.bitwidth == 32 else ir.DoubleType(), self.width)

    def constant(self, number: float) -> ir.Constant:
        return ir.Constant(self.ir, [number] * self.width)


@register_default(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager, vector):
        super().__init__(manager, vector, vector.ir)


def _address(context, builder, signature, args):
    """The address of a number: of a pointer and a position, the first two arguments."""
    return builder.gep(args[0], [context.cast(builder, args[1], signature.args[1], types.intp)])


def _pick(builder, a, b, places):
    """The numbers at `places` of a followed by b."""
    places = list(places)
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(INT32, len(places)), places))


@intrinsic
def at(typing, memory, position):
    """A pointer to the number at `position` of a contiguous array, or of another pointer."""
    if isinstance(memory, types.CPointer):
        return memory(memory, position), _address
    assert memory.layout == "C", "at: the array must be contiguous"

    def generate(context, builder, signature, args):
        data = context.make_array(memory)(context, builder, args[0]).data
        return _address(context, builder, signature, (data, args[1]))

    return types.CPointer(memory.dtype)(memory, position), generate


@intrinsic
def item(typing, memory, position):
    """One number."""

    def generate(context, builder, signature, args):
        return builder.load(_address(context, builder, signature, args))

    return memory.dtype(memory, position), generate


@intrinsic
def put(typing, memory, position, number):
    """Write one number."""

    def generate(context, builder, signature, args):
        builder.store(args[2], _address(context, builder, signature, args))
        return context.get_dummy_value()

    return types.void(memory, position, memory.dtype), generate


def _word(context, builder, signature, args):
    return builder.bitcast(_address(context, builder, signature, args), INT32.as_pointer())


@intrinsic
def word(typing, memory, position):
    """The int32 that `put_word` wrote where a number could be."""

    def generate(context, builder, signature, args):
        return builder.load(_word(context, builder, signature, args))

    return types.int32(memory, position), generate


@intrinsic
def put_word(typing, memory, position, number):
    """Write an int32 where a number could be: its first 4 bytes."""

    def generate(context, builder, signature, args):
        builder.store(args[2], _word(context, builder, signature, args))
        return context.get_dummy_value()

    return types.void(memory, position, types.int32), generate


@intrinsic
def load(typing, memory, position, like):
    """The Vector, as wide as `like`, of the numbers from `position` on."""

    def generate(context, builder, signature, args):
        place = builder.bitcast(_address(context, builder, signature, args), like.ir.as_pointer())
        found = builder.load(place)
        found.align = like.dtype.bitwidth // 8
        return found

    return like(memory, position, like), generate


@intrinsic
def store(typing, memory, position, vector):
    """Write a Vector, from `position` on."""

    def generate(context, builder, signature, args):
        place = builder.bitcast(_address(context, builder, signature, args), vector.ir.as_pointer())
        builder.store(args[2], place).align = vector.dtype.bitwidth // 8
        return context.get_dummy_value()

    return types.void(memory, position, vector), generate


@intrinsic
def prefetch(typing, memory, position):
    """Ask for a line of memory to be in the second-level cache soon. Any address will do."""

    def generate(context, builder, signature, args):
        place = builder.bitcast(_address(context, builder, signature, args), ir.IntType(8).as_pointer())
        ask = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(ir.VoidType(), [place.type, INT32, INT32, INT32]), "llvm.prefetch.p0")
        builder.call(ask, [place, INT32(0), INT32(2), INT32(1)])  # to read, kept in all but the first level, data
        return context.get_dummy_value()

    return types.void(memory, position), generate


@intrinsic
def stream(typing, memory, position, vector):
    """`store` past the caches: a plain store first fetches what it overwrites. The address is a multiple of 64 bytes.

    Other threads see it after a `fence()`.
    """

    def generate(context, builder, signature, args):
        place = builder.bitcast(_address(context, builder, signature, args), vector.ir.as_pointer())
        written = builder.store(args[2], place)
        written.align = 64
        written.set_metadata("nontemporal", builder.module.add_metadata([INT32(1)]))
        return context.get_dummy_value()

    return types.void(memory, position, vector), generate


@intrinsic
def fence(typing):
    """What was written before it, other threads see after it."""

    def generate(context, builder, signature, args):
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), generate


def _masked(context, builder, signature, args, vector: Vector, written=None):
    """Load, or store `written`, the first n numbers of a Vector; n is the third argument."""
    lanes = ir.VectorType(INT32, vector.width)
    n = builder.trunc(context.cast(builder, args[2], signature.args[2], types.int64), INT32)
    wide = _pick(builder, builder.insert_element(ir.Constant(lanes, ir.Undefined), n, INT32(0)),
                 ir.Constant(lanes, ir.Undefined), [0] * vector.width)
    mask = builder.icmp_signed("<", ir.Constant(lanes, list(range(vector.width))), wide)
    place = builder.bitcast(_address(context, builder, signature, args), vector.ir.as_pointer())
    align, kind = INT32(vector.dtype.bitwidth // 8), f"v{vector.width}f{vector.dtype.bitwidth}.p0"
    if written is None:
        function = ir.FunctionType(vector.ir, [place.type, INT32, mask.type, vector.ir])
        name, values = f"llvm.masked.load.{kind}", (place, align, mask, vector.constant(0.0))
    else:
        function = ir.FunctionType(ir.VoidType(), [vector.ir, place.type, INT32, mask.type])
        name, values = f"llvm.masked.store.{kind}", (written, place, align, mask)
    return builder.call(cgutils.get_or_insert_function(builder.module, function, name), values)


@intrinsic
def load_some(typing, memory, position, n, like):
    """As `load`, of n numbers; the places beyond hold zero, and memory beyond is not touched."""

    def generate(context, builder, signature, args):
        return _masked(context, builder, signature, args, like)

    return like(memory, position, n, like), generate


@intrinsic
def store_some(typing, memory, position, n, vector):
    """As `store`, of the first n numbers."""

    def generate(context, builder, signature, args):
        _masked(context, builder, signature, args, vector, args[3])
        return context.get_dummy_value()

    return types.void(memory, position, n, vector), generate


@intrinsic(prefer_literal=True)
def splat(typing, number, width):
    """A Vector that holds `number` in all its `width` places; `width` is a constant, or a Vector that is as wide."""
    size = width.width if isinstance(width, Vector) else width.literal_value
    vector = Vector(number, size)

    def generate(context, builder, signature, args):
        nothing = ir.Constant(vector.ir, ir.Undefined)
        return _pick(builder, builder.insert_element(nothing, args[0], INT32(0)), nothing, [0] * size)

    return vector(number, width), generate


@intrinsic
def four(typing, memory, position):
    """Four numbers from `position` on, over and over in a Vector of 16; see `lane`.

    LLVM would turn them back into four loads. A fence, which costs nothing, hides where they come from.
    """
    vector = Vector(memory.dtype, 16)

    def generate(context, builder, signature, args):
        place = builder.bitcast(_address(context, builder, signature, args), Vector(memory.dtype, 4).ir.as_pointer())
        found = builder.load(place)
        found.align = memory.dtype.bitwidth // 8
        fence = cgutils.get_or_insert_function(builder.module, ir.FunctionType(vector.ir, [vector.ir]),
                                               f"llvm.arithmetic.fence.v16f{memory.dtype.bitwidth}")
        return builder.call(fence, [_pick(builder, found, found, [0, 1, 2, 3] * 4)])

    return vector(memory, position), generate


@intrinsic(prefer_literal=True)
def lane(typing, vector, i, like):
    """A Vector, as wide as `like`, that holds number i of what `four` found in all its places; i is a constant.

    A shuffle in place of a load, where loads are what is short.
    """
    places = [j % 16 // 4 * 4 + i.literal_value for j in range(like.width)]
    return like(vector, i, like), lambda context, builder, signature, args: _pick(builder, args[0], args[0], places)


@intrinsic
def width(typing, vector):
    """How many numbers a Vector holds."""
    return types.intp(vector), lambda context, builder, signature, args: context.get_constant(types.intp, vector.width)


@intrinsic
def total(typing, vector):
    """The sum of the numbers of a Vector."""

    def generate(context, builder, signature, args):
        scalar, kind = vector.ir.element, f"v{vector.width}f{vector.dtype.bitwidth}"
        reduce = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(scalar, [scalar, vector.ir]), f"llvm.vector.reduce.fadd.{kind}")
        return builder.call(reduce, [scalar(0), args[0]], fastmath=("reassoc",))

    return vector.dtype(vector), generate


@intrinsic
def totals(typing, a, b, c, d):
    """The Vector of the four sums of four Vectors: 13 instructions in place of 32 where a register holds 16 floats."""
    four = Vector(a.dtype, 4)

    def generate(context, builder, signature, args):
        def narrow(x, size, to):  # the sum of its pieces of `to` numbers; a chain, so that products before it fuse
            pieces = [_pick(builder, x, x, range(i, i + to)) for i in range(0, size, to)]
            found = pieces[0]
            for piece in pieces[1:]:
                found = builder.fadd(found, piece)
            return found

        def pairs(x, y, size):  # in each group of four places: x0 + x1, x2 + x3, y0 + y1, y2 + y3
            even = [i for group in range(0, size, 4) for i in (group, group + 2, size + group, size + group + 2)]
            return builder.fadd(_pick(builder, x, y, even), _pick(builder, x, y, (i + 1 for i in even)))

        size = min(16, a.width)
        w, x, y, z = (narrow(v, a.width, size) for v in args)
        found = pairs(pairs(w, x, size), pairs(y, z, size), size)
        while size > 4:
            found, size = narrow(found, size, size // 2), size // 2
        return found

    return four(a, b, c, d), generate


@intrinsic
def relu(typing, vector):
    """max(0, x) of each number; NaN stays NaN."""

    def generate(context, builder, signature, args):
        below = builder.fcmp_ordered("<", args[0], vector.constant(0.0))
        return builder.select(below, vector.constant(0.0), args[0])

    return vector(vector), generate


@intrinsic
def sqrt(typing, vector):
    """The square root of each number."""

    def generate(context, builder, signature, args):
        root = cgutils.get_or_insert_function(builder.module, ir.FunctionType(vector.ir, [vector.ir]),
                                              f"llvm.sqrt.v{vector.width}f{vector.dtype.bitwidth}")
        return builder.call(root, args)

    return vector(vector), generate


@intrinsic
def exp(typing, vector):
    """e^x of each float32, to 1e-7 of itself; between e^-87 and e^88 in size; NaN stays NaN.

    x = n log 2 + r with a whole n and |r| <= log(2) / 2: e^x = 2^n e^r. e^r is `SERIES`; log 2 is taken off in two
    parts, the first with so few bits that n times it is exact. Added to 1.5 * 2^23, x / log 2 loses its fraction, and
    the last bits of the sum are n: moved up by 23 places, they are the exponent of 2^n, which has 127 added to it.
    """
    assert vector.dtype is types.float32, "exp is for float32"

    def generate(context, builder, signature, args):
        exact = ("contract",)  # without a flag of its own an instruction gets the kernel's, and may be reordered
        whole = ir.VectorType(INT32, vector.width)
        (x,) = args
        for order, limit in (("<", -87.0), (">", 88.0)):
            x = builder.select(builder.fcmp_ordered(order, x, vector.constant(limit)), vector.constant(limit), x)
        large = 1.5 * 2**23 + 127
        shifted = builder.fadd(builder.fmul(x, vector.constant(1 / math.log(2)), flags=exact), vector.constant(large),
                               flags=exact)
        n = builder.fadd(shifted, vector.constant(-large), flags=exact)
        r = x
        for part in (0.693359375, math.log(2) - 0.693359375):
            r = builder.fadd(r, builder.fmul(n, vector.constant(-part), flags=exact), flags=exact)
        series = vector.constant(SERIES[-1])
        for coefficient in SERIES[-2::-1]:
            series = builder.fadd(builder.fmul(series, r, flags=exact), vector.constant(coefficient), flags=exact)
        power = builder.shl(builder.bitcast(shifted, whole), ir.Constant(whole, [23] * vector.width))
        return builder.fmul(series, builder.bitcast(power, vector.ir), flags=exact)

    return vector(vector), generate


def _elementwise(operation, instruction: str) -> None:
    @intrinsic
    def apply(typing, a, b):
        return a(a, b), lambda context, builder, signature, args: getattr(builder, instruction)(*args)

    @overload(operation)
    def choose(a, b):
        if isinstance(a, Vector) and a == b:
            return lambda a, b: apply(a, b)


for _operation, _instruction in ((operator.add, "fadd"), (operator.sub, "fsub"), (operator.mul, "fmul"),
                                 (operator.truediv, "fdiv")):
    _elementwise(_operation, _instruction)

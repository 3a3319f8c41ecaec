# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""The inner loops of ``hot.py`` as C: the same names, the same results, checked against each other by the tests.

Numbers are read here only when they are plain (``digits`` or ``digits.digits``) and short enough to be exact; every
other text is left to ``float`` or to Arrow, which also word the errors.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.dict cimport PyDict_GetItem
from cpython.list cimport PyList_GET_ITEM, PyList_GET_SIZE
from cpython.mem cimport PyMem_Free, PyMem_Realloc
from cpython.object cimport PyObject
from cpython.unicode cimport PyUnicode_DecodeASCII
from libc.stdint cimport int32_t, int64_t, uint64_t
from libc.string cimport memchr, memmove

from marketprism_ray import columns
from marketprism_ray.errors import DECODE_ERRORS, BookError
from marketprism_ray.venue import Follows

cdef extern from *:
    """
    typedef unsigned __int128 mp_uint128 __attribute__((aligned(8)));
    #define MP_ASCII(text) (PyUnicode_CheckExact(text) && PyUnicode_IS_COMPACT_ASCII(text))
    #define MP_CHARACTERS(text) ((const unsigned char *)PyUnicode_1BYTE_DATA(text))
    """
    ctypedef unsigned long long mp_uint128
    bint MP_ASCII(object text)
    const unsigned char* MP_CHARACTERS(object text)
    Py_ssize_t PyUnicode_GET_LENGTH(object text)


cdef double[23] POWERS
cdef uint64_t[19] WHOLE_POWERS
cdef int _power
for _power in range(23):
    POWERS[_power] = float("1e%d" % _power)
for _power in range(19):
    WHOLE_POWERS[_power] = int("1" + "0" * _power)

cdef object NEXT = Follows.NEXT
cdef double INFINITY = float("inf")
cdef uint64_t EXACT = 1 << 53
"""Whole numbers below this, divided by a power of ten up to 22, give the double nearest to the text."""


cdef double number(object text) except? -1.0:
    """Read a number as ``float`` does."""
    cdef const unsigned char* at
    cdef const unsigned char* end
    cdef const unsigned char* point = NULL
    cdef uint64_t mantissa = 0
    cdef Py_ssize_t length
    cdef unsigned int digit
    if not MP_ASCII(text):
        return float(text)
    at = MP_CHARACTERS(text)
    length = PyUnicode_GET_LENGTH(text)
    if length == 0 or length > 18:
        return float(text)
    end = at + length
    while at < end:
        digit = at[0] - 48
        if digit <= 9:
            mantissa = mantissa * 10 + digit
        elif at[0] == c"." and point == NULL:
            point = at
        else:
            return float(text)
        at += 1
    if mantissa >= EXACT or (point != NULL and length == 1):
        return float(text)
    if point == NULL:
        return <double>mantissa
    return <double>mantissa / POWERS[end - point - 1]


# --- books -----------------------------------------------------------------------------------------------------------


cdef class _Side:
    """One side of a book: prices in ascending order of goodness, and the levels as the venue sent them."""

    cdef double* prices
    cdef Py_ssize_t capacity
    cdef list rows
    cdef bint negate
    cdef long unknown_deletes

    def __cinit__(self, bint negate):
        self.prices = NULL
        self.capacity = 0
        self.rows = []
        self.negate = negate
        self.unknown_deletes = 0

    def __dealloc__(self):
        PyMem_Free(self.prices)

    cdef int apply(self, levels) except -1:
        cdef list rows = self.rows
        cdef double* prices = self.prices
        cdef Py_ssize_t size = PyList_GET_SIZE(rows)
        cdef Py_ssize_t low, high, middle
        cdef double price, quantity
        cdef bint negate = self.negate
        for level in levels:
            price = number(level.price)
            quantity = number(level.quantity)
            if negate:
                price = -price
            low = 0
            high = size
            while low < high:
                middle = (low + high) >> 1
                if prices[middle] < price:
                    low = middle + 1
                else:
                    high = middle
            if low < size and prices[low] == price:
                if quantity == 0.0:
                    memmove(prices + low, prices + low + 1, (size - low - 1) * sizeof(double))
                    del rows[low]
                    size -= 1
                    continue
                rows[low] = level
            elif quantity == 0.0:
                self.unknown_deletes += 1
                continue
            else:
                # A price that is in the book has been looked at when it came.
                if not 0.0 < (-price if negate else price) < INFINITY:
                    raise BookError(f"price {level.price!r} is out of range")
                if size == self.capacity:
                    self.grow()
                    prices = self.prices
                rows.insert(low, level)
                memmove(prices + low + 1, prices + low, (size - low) * sizeof(double))
                prices[low] = price
                size += 1
            if not 0.0 < quantity < INFINITY:
                raise BookError(f"quantity {level.quantity!r} at {level.price!r} is out of range")
        return 0

    cdef int grow(self) except -1:
        cdef Py_ssize_t capacity = self.capacity * 2 if self.capacity else 64
        cdef double* grown = <double*>PyMem_Realloc(self.prices, capacity * sizeof(double))
        if grown == NULL:
            raise MemoryError
        self.prices = grown
        self.capacity = capacity
        return 0

    cdef Py_ssize_t keep(self, Py_ssize_t count) except -1:
        """Forget the levels farthest from the best; give how many."""
        cdef Py_ssize_t excess = PyList_GET_SIZE(self.rows) - count
        memmove(self.prices, self.prices + excess, count * sizeof(double))
        del self.rows[:excess]
        return excess

    cdef list best_first(self, Py_ssize_t depth):
        cdef Py_ssize_t size = PyList_GET_SIZE(self.rows)
        cdef list found = self.rows[size - depth :] if 0 <= depth < size else self.rows[:]
        found.reverse()
        return found


cdef class Book:
    """See ``book.Book``."""

    cdef _Side bids
    cdef _Side asks
    cdef Py_ssize_t most
    cdef Py_ssize_t prune_at
    cdef readonly long pruned

    def __init__(self, keep=None):
        self.bids = _Side(False)
        self.asks = _Side(True)
        self.most = keep or -1
        self.prune_at = keep + max(keep // 10, 10) if keep else -1
        self.pruned = 0

    def replace(self, bids, asks):
        """Forget everything and take these levels; True if they are crossed."""
        self.clear()
        return self.apply(bids, asks)

    def clear(self):
        """Forget everything."""
        self.bids.rows.clear()
        self.asks.rows.clear()

    def apply(self, bids, asks):
        """Set absolute quantities; 0 deletes; True if the book is crossed now."""
        return self.change(bids, asks)

    cdef bint change(self, bids, asks) except -1:
        cdef Py_ssize_t bid_count, ask_count
        try:
            bid_count = self.side(self.bids, bids)
            ask_count = self.side(self.asks, asks)
        except ValueError as error:
            raise BookError(f"a price or quantity is not a number: {error}") from error
        return bid_count and ask_count and self.bids.prices[bid_count - 1] >= -self.asks.prices[ask_count - 1]

    cdef inline Py_ssize_t side(self, _Side side, levels) except -1:
        cdef Py_ssize_t count
        side.apply(levels)
        count = PyList_GET_SIZE(side.rows)
        if count > self.prune_at > 0:
            self.pruned += side.keep(self.most)
            count = self.most
        return count

    @property
    def unknown_deletes(self):
        """How often a level was deleted that was not there."""
        return self.bids.unknown_deletes + self.asks.unknown_deletes

    def best(self):
        """Give best bid and best offer; None for an empty side."""
        cdef Py_ssize_t bid_count = PyList_GET_SIZE(self.bids.rows)
        cdef Py_ssize_t ask_count = PyList_GET_SIZE(self.asks.rows)
        return (
            self.bids.rows[bid_count - 1] if bid_count else None,
            self.asks.rows[ask_count - 1] if ask_count else None,
        )

    def top(self, Py_ssize_t depth):
        """Give up to ``depth`` levels a side, best first."""
        if depth <= 0:
            return [], []
        return self.bids.best_first(depth), self.asks.best_first(depth)

    def levels(self):
        """Give all levels, best first."""
        return self.bids.best_first(-1), self.asks.best_first(-1)

    def __len__(self):
        return PyList_GET_SIZE(self.bids.rows) + PyList_GET_SIZE(self.asks.rows)


# --- the usual way of a frame ----------------------------------------------------------------------------------------


cdef class Cut:
    """See ``intake.Cut``."""

    cdef Py_ssize_t start
    cdef Py_ssize_t extra
    cdef char end

    def __init__(self, Py_ssize_t start, bytes end, bint with_end=False):
        self.start = start
        self.end = end[0]
        self.extra = 1 if with_end else 0

    def read(self, bytes raw):
        """Give the key; empty if there is none."""
        cdef const char* text = PyBytes_AS_STRING(raw)
        cdef Py_ssize_t size = PyBytes_GET_SIZE(raw)
        cdef const char* at
        if size <= self.start:
            return b""
        at = <const char*>memchr(text + self.start, self.end, size - self.start)
        if at == NULL:
            return b""
        return PyBytes_FromStringAndSize(text + self.start, at - text - self.start + self.extra)


cdef class FrameIntake:
    """See ``intake.FrameIntake``."""

    cdef public object now
    cdef public long frames
    cdef public object _tap
    cdef public object _route
    cdef public dict _handlers

    def frame(self, raw, received):
        """Take one message. Never raises on bad input: it is counted and its stream resyncs."""
        cdef PyObject* handler
        self.now = received
        self.frames += 1
        if self._tap is not None:
            self._tap(raw, received)
        handler = PyDict_GetItem(self._handlers, self._route(raw))
        if handler != NULL:
            # A reference of its own: what it does may replace the handlers.
            target = <object>handler
            target(raw, received)
        else:
            self._other(raw, received)


cdef class TradeIntake:
    """See ``intake.TradeIntake``."""

    cdef public long frames
    cdef long long sequence
    cdef bint has_sequence
    cdef public object _last_trade
    cdef public object _decode
    cdef public list _owners
    cdef public list _rows
    cdef public list _received

    @property
    def last(self):
        """Sequence of the last accepted trade."""
        return self.sequence if self.has_sequence else None

    @last.setter
    def last(self, value):
        self.has_sequence = value is not None
        if value is not None:
            self.sequence = value

    def frame(self, raw, received):
        """Decode, check the sequence, keep."""
        self.frames += 1
        try:
            data = self._decode(raw).data
        except DECODE_ERRORS as error:
            self._malformed(raw, error)
            return
        if type(data) is list:
            for trade in <list>data:
                self.take(trade, received)
        else:
            self.take(data, received)

    def _take(self, trade, received):
        self.take(trade, received)

    cdef int take(self, trade, received) except -1:
        cdef long long sequence
        value = trade.sequence
        try:
            sequence = value
        except OverflowError:
            self._out_of_step(trade, received)
            return 0
        if not (self.has_sequence and sequence - 1 == self.sequence) and not self._out_of_step(trade, received):
            return 0
        self.sequence = sequence
        self.has_sequence = True
        self._last_trade = trade
        self._owners.append(self)
        self._rows.append(trade)
        self._received.append(received)
        return 0


cdef class DeltaIntake:
    """See ``intake.DeltaIntake``."""

    cdef public Book book
    cdef public object last
    cdef public object last_time
    cdef public bint changed
    cdef public long applied
    cdef public bint _live
    cdef public object _follows
    cdef public object _emit

    def delta(self, delta, received):
        """Take one message of the stream."""
        self.take(delta, received)

    cdef int take(self, delta, received) except -1:
        if self._live and not delta.is_snapshot and self._follows(self.last, delta) is NEXT:
            self.apply(delta, received)
        else:
            self._unusual(delta, received)
        return 0

    def _apply(self, delta, received):
        self.apply(delta, received)

    cdef int apply(self, delta, received) except -1:
        bids = delta.bids
        asks = delta.asks
        cdef bint crossed
        try:
            crossed = self.book.change(bids, asks)
        except BookError as error:
            self.broken("malformed", str(error))
            return 0
        previous = self.last
        last = delta.last
        self.last = last
        if not bids and not asks and delta.previous == last:
            return 0
        self.last_time = delta.time
        self.changed = True
        self.applied += 1
        self._emit(delta, previous, received)
        if crossed or delta.checksum:
            self._examine(delta, crossed)
        return 0


cdef class BookIntake:
    """See ``intake.BookIntake``."""

    cdef public long frames
    cdef public DeltaIntake sync
    cdef public object _decode
    cdef public bint _keep_deltas
    cdef public object _time_ns
    cdef public object _deltas
    cdef public list _owners
    cdef public list _rows
    cdef public list _received

    def frame(self, raw, received):
        """Decode and hand to the state machine."""
        self.frames += 1
        try:
            data = self._decode(raw).data
            if type(data) is list:
                for delta in <list>data:
                    self.sync.take(delta, received)
            else:
                self.sync.take(data, received)
        except DECODE_ERRORS as error:
            self._malformed(raw, error)

    def delta(self, delta, previous, received):
        """Keep an applied change."""
        if self._keep_deltas:
            self._owners.append(self)
            self._rows.append((previous, delta, self._time_ns))
            self._received.append(received)
            self._deltas.bytes += 100 + 50 * (len(delta.bids) + len(delta.asks))


# --- decimals --------------------------------------------------------------------------------------------------------


cdef enum:
    PLAIN = 0
    ZERO = 1
    OTHER = 2

cdef int64_t MOST = 9223372036854775807
cdef uint64_t SHORT = 9223372036


cdef inline int fixed(object text, mp_uint128* out, uint64_t* short_out) noexcept:
    """Read a plain number with at most 18 digits after the point, times 10^18.

    ``short_out`` gets it times 10^9, or 0 if that is not exact or not below 2^63.
    """
    cdef const unsigned char* at
    cdef const unsigned char* end
    cdef uint64_t whole = 0
    cdef uint64_t part = 0
    cdef Py_ssize_t length
    cdef unsigned int digit
    if not MP_ASCII(text):
        return OTHER
    at = MP_CHARACTERS(text)
    length = PyUnicode_GET_LENGTH(text)
    end = at + length
    # 18 digits before the point and 18 after it fit 64 bits each.
    while at < end:
        digit = at[0] - 48
        if digit > 9:
            break
        whole = whole * 10 + digit
        at += 1
    length = length - (end - at)
    if length == 0 or length > 18:
        return OTHER
    if at < end:
        if at[0] != c".":
            return OTHER
        at += 1
        length = end - at
        if length == 0 or length > 18:
            return OTHER
        while at < end:
            digit = at[0] - 48
            if digit > 9:
                return OTHER
            part = part * 10 + digit
            at += 1
        part *= WHOLE_POWERS[18 - length]
    out[0] = <mp_uint128>whole * WHOLE_POWERS[18] + part
    # part is a multiple of 10^9 if at most 9 digits were written; a longer one may be, too.
    short_out[0] = 0
    if whole < SHORT and part % WHOLE_POWERS[9] == 0:
        short_out[0] = whole * WHOLE_POWERS[9] + part / WHOLE_POWERS[9]
    return PLAIN if whole or part else ZERO


def number_text(raw):
    """See ``columns.number_text``."""
    cdef Py_buffer view
    PyObject_GetBuffer(raw, &view, PyBUF_SIMPLE)
    try:
        if memchr(view.buf, c"e", view.len) != NULL or memchr(view.buf, c"E", view.len) != NULL:
            return columns.number_text(raw)
        return PyUnicode_DecodeASCII(<const char*>view.buf, view.len, NULL)
    finally:
        PyBuffer_Release(&view)


def trade_columns(list rows, long long time_ns):
    """See ``columns.trade_columns``."""
    cdef Py_ssize_t size = PyList_GET_SIZE(rows)
    cdef bytes sequence_buffer = PyBytes_FromStringAndSize(NULL, size * 8)
    cdef bytes time_buffer = PyBytes_FromStringAndSize(NULL, size * 8)
    cdef bytes price_buffer = PyBytes_FromStringAndSize(NULL, size * 16)
    cdef bytes quantity_buffer = PyBytes_FromStringAndSize(NULL, size * 16)
    cdef bytes product_buffer = PyBytes_FromStringAndSize(NULL, size * 16)
    cdef int64_t* sequence = <int64_t*>PyBytes_AS_STRING(sequence_buffer)
    cdef int64_t* times = <int64_t*>PyBytes_AS_STRING(time_buffer)
    cdef mp_uint128* price = <mp_uint128*>PyBytes_AS_STRING(price_buffer)
    cdef mp_uint128* quantity = <mp_uint128*>PyBytes_AS_STRING(quantity_buffer)
    cdef mp_uint128* product = <mp_uint128*>PyBytes_AS_STRING(product_buffer)
    cdef bint has_product = True
    cdef uint64_t price_9 = 0
    cdef uint64_t quantity_9 = 0
    cdef int64_t time
    cdef Py_ssize_t i
    cdef int64_t latest = MOST / time_ns
    for i in range(size):
        row = <object>PyList_GET_ITEM(rows, i)
        sequence[i] = row.sequence
        time = row.time
        if not 0 < time < latest:
            return None
        times[i] = time * time_ns
        if fixed(row.price, price + i, &price_9) != PLAIN or fixed(row.quantity, quantity + i, &quantity_9) != PLAIN:
            return None
        # Both below 2^63 and with at most 9 digits after the point: the product is exact, and below 10^38.
        if price_9 == 0 or quantity_9 == 0:
            has_product = False
        else:
            product[i] = <mp_uint128>price_9 * quantity_9
    return sequence_buffer, time_buffer, price_buffer, quantity_buffer, product_buffer if has_product else None


def delta_columns(list rows):
    """See ``columns.delta_columns``."""
    cdef Py_ssize_t size = PyList_GET_SIZE(rows)
    cdef list buffers = [PyBytes_FromStringAndSize(NULL, size * 8) for _ in range(4)]
    cdef int64_t* times = <int64_t*>PyBytes_AS_STRING(buffers[0])
    cdef int64_t* first = <int64_t*>PyBytes_AS_STRING(buffers[1])
    cdef int64_t* last = <int64_t*>PyBytes_AS_STRING(buffers[2])
    cdef int64_t* before = <int64_t*>PyBytes_AS_STRING(buffers[3])
    cdef bytes flag_buffer = bytes((size + 7) // 8)
    cdef unsigned char* flags = <unsigned char*>PyBytes_AS_STRING(flag_buffer)
    cdef list bids = [None] * size
    cdef list asks = [None] * size
    cdef int64_t time, unit
    cdef Py_ssize_t i
    cdef tuple row
    try:
        for i in range(size):
            row = <tuple><object>PyList_GET_ITEM(rows, i)
            delta = row[1]
            time = delta.time
            unit = row[2]
            if not 0 <= time < MOST / unit:
                return None
            times[i] = time * unit
            first[i] = delta.first
            last[i] = delta.last
            before[i] = row[0]
            if delta.is_snapshot:
                flags[i >> 3] |= <unsigned char>(1 << (i & 7))
            bids[i] = delta.bids
            asks[i] = delta.asks
    except (OverflowError, TypeError):
        return None
    return (*buffers, flag_buffer, bids, asks)


def level_columns(list sides):
    """See ``columns.level_columns``."""
    cdef Py_ssize_t rows = PyList_GET_SIZE(sides)
    cdef Py_ssize_t size = 0
    cdef Py_ssize_t i
    cdef list side
    cdef bytes offset_buffer = PyBytes_FromStringAndSize(NULL, (rows + 1) * sizeof(int32_t))
    cdef int32_t* offsets = <int32_t*>PyBytes_AS_STRING(offset_buffer)
    offsets[0] = 0
    for i in range(rows):
        if not isinstance(<object>PyList_GET_ITEM(sides, i), list):
            return None
        size += PyList_GET_SIZE(<object>PyList_GET_ITEM(sides, i))
        offsets[i + 1] = <int32_t>size
    cdef bytes price_buffer = PyBytes_FromStringAndSize(NULL, size * 16)
    cdef bytes quantity_buffer = PyBytes_FromStringAndSize(NULL, size * 16)
    cdef mp_uint128* price = <mp_uint128*>PyBytes_AS_STRING(price_buffer)
    cdef mp_uint128* quantity = <mp_uint128*>PyBytes_AS_STRING(quantity_buffer)
    cdef uint64_t unused = 0
    for i in range(rows):
        side = <list><object>PyList_GET_ITEM(sides, i)
        for level in side:
            if fixed(level.price, price, &unused) != PLAIN or fixed(level.quantity, quantity, &unused) == OTHER:
                return None
            price += 1
            quantity += 1
    return offset_buffer, price_buffer, quantity_buffer

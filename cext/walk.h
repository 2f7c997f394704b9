/* The walk over a body, for one kind of registers. octets.h includes this once for each kind it knows, with the names
 * of that kind defined, and says what they stand for; hence no include guard.
 *
 * There are two ways to take 64 octets. Nearly all of a body is tidy: text and CR LF. Such octets are compared with
 * their neighbours in whole registers (`look`), one branch tells that nothing is odd, and their lines are measured by
 * the first LF and the last one alone (`take`). The first octets of a piece, the last ones, and those where something
 * is odd go through `exactly`, which makes a word of 64 bits of each thing that it looks for.
 */

struct NAMED(sight) {
    uint64_t line_feeds;
    VECTOR lonely; /* LF that is not behind CR, and what is behind CR and not LF */
    VECTOR dotted; /* LF in front of a dot */
    VECTOR nul, all_bits;
};

/* What there is to be seen of p[0..63]; reads p[-1..64]. */
static ALWAYS_INLINE TARGET struct NAMED(sight) NAMED(look)(
    const unsigned char *p, unsigned char *out, enum task task
) {
    VECTOR line_feeds[LANES];
    struct NAMED(sight) seen = {.lonely = NOTHING, .dotted = NOTHING, .nul = NOTHING, .all_bits = NOTHING};
    for (int lane = 0; lane < LANES; lane++) {
        const unsigned char *octets = p + lane * (64 / LANES);
        const VECTOR here = LOAD(octets), line_feed = EQUAL(here, '\n');
        line_feeds[lane] = line_feed;
        seen.lonely = OR(seen.lonely, XOR(line_feed, EQUAL(LOAD(octets - 1), '\r')));
        if (task & DOTS)
            seen.dotted = OR(seen.dotted, AND(line_feed, EQUAL(LOAD(octets + 1), '.')));
        if (!(task & STUFF)) {
            seen.nul = OR(seen.nul, EQUAL(here, 0));
            seen.all_bits = OR(seen.all_bits, here);
        }
        if (task & COPY)
            STORE(out + lane * (64 / LANES), here);
    }
    seen.line_feeds = BITS(line_feeds);
    return seen;
}

/* What keeps octets from being taken as they are. To stuff, what is lonely need only be known in the end. */
static ALWAYS_INLINE TARGET VECTOR NAMED(odd)(const struct NAMED(sight) *seen, enum task task) {
    return task & STUFF ? seen->dotted : OR(seen->lonely, seen->dotted);
}

static ALWAYS_INLINE TARGET void NAMED(take)(
    const struct NAMED(sight) *seen, struct NAMED(sight) *taken, struct lines *lines, enum task task
) {
    if (task & STUFF) {
        taken->lonely = OR(taken->lonely, seen->lonely);
        return;
    }
    taken->nul = OR(taken->nul, seen->nul);
    taken->all_bits = OR(taken->all_bits, seen->all_bits);
    const uint64_t ends = seen->line_feeds;
    /* Between the first LF and the last one no line has more than 61 octets. */
    if (RARELY(lines->longest < 61 && (ends & (ends - 1)))) {
        measure(lines, ends, 64);
        return;
    }
    /* If no line ends here, this one is at least so long. */
    const ptrdiff_t length = lines->open + lowest_or_64(ends) - 1;
    lines->longest = length > lines->longest ? length : lines->longest;
    lines->open = (lines->open & -(ptrdiff_t)(ends == 0)) + above_highest(ends);
}

static ALWAYS_INLINE TARGET uint64_t NAMED(where)(const VECTOR *here, unsigned char octet) {
    VECTOR found[LANES];
    for (int lane = 0; lane < LANES; lane++)
        found[lane] = EQUAL(here[lane], octet);
    return BITS(found);
}

/* Takes up to 64 octets, whatever is in them. Returns how many: less than `size` in front of a dot that begins a line.
 * With COPY, out[0..size) is written in any case. */
static TARGET NEVER_INLINE size_t NAMED(exactly)(
    struct walk *walk, const unsigned char *p, size_t size, unsigned char *out, enum task task
) {
    unsigned char padded[64];
    VECTOR here[LANES], tops[LANES];
    if (size < 64) {
        memset(padded, 'x', sizeof padded);
        memcpy(padded, p, size);
        if (task & COPY)
            memcpy(out, p, size);
        p = padded;
    }
    for (int lane = 0; lane < LANES; lane++) {
        here[lane] = LOAD(p + lane * (64 / LANES));
        tops[lane] = TOP_BIT(here[lane]);
        if (task & COPY && p != padded)
            STORE(out + lane * (64 / LANES), here[lane]);
    }
    const uint64_t crs = NAMED(where)(here, '\r'), lfs = NAMED(where)(here, '\n');
    const uint64_t behind_cr = crs << 1 | walk->behind_cr;
    uint64_t ends = task & STUFF ? lfs : lfs & behind_cr;
    if (task & DOTS) {
        const uint64_t dots = NAMED(where)(here, '.') & (ends << 1 | walk->line_begins);
        if (dots)
            size = lowest(dots);
    }
    if (size == 0)
        return 0;
    const uint64_t taken = ~UINT64_C(0) >> (64 - size);
    ends &= taken;
    walk->bare_cr |= (behind_cr & ~lfs & taken) != 0;
    walk->bare_lf |= (lfs & ~behind_cr & taken) != 0;
    walk->behind_cr = crs >> (size - 1) & 1;
    walk->line_begins = ends >> (size - 1) & 1;
    if (!(task & STUFF)) {
        walk->nul |= (NAMED(where)(here, 0) & taken) != 0;
        walk->eight_bit |= (BITS(tops) & taken) != 0;
        measure(&walk->lines, ends, size);
    }
    return size;
}

/* Takes the 64 octets at p, with the dot in p[1..64] that begins a line: it gets another one, or is left out, and what
 * comes behind it is copied anew, a place further on or back. Returns how many octets it took: the dot too if it is
 * p[64]; or none if more is odd, there is no room, or too little is left to tell whether the dot is the final one. */
static ALWAYS_INLINE TARGET size_t NAMED(take_dot)(
    struct walk *walk, const unsigned char *p, size_t left, unsigned char *out, struct NAMED(sight) *taken,
    struct lines *lines, enum task task
) {
    VECTOR next[LANES];
    if (left < 130)
        return 0;
    const struct NAMED(sight) seen = NAMED(look)(p, out, task);
    for (int lane = 0; lane < LANES; lane++)
        next[lane] = LOAD(p + 1 + lane * (64 / LANES));
    const uint64_t dots = NAMED(where)(next, '.') & seen.line_feeds;
    if (dots == 0 || (dots & (dots - 1)))
        return 0;
    const size_t dot = lowest(dots) + 1;
    if (task & STUFF) {
        if (walk->spare == 0)
            return 0;
        walk->spare--;
        out[dot] = '.';
    } else if (ANY(seen.lonely) || lines->longest < 61 || (p[dot + 1] == '\r' && p[dot + 2] == '\n')) {
        return 0;
    }
    NAMED(take)(&seen, taken, lines, task);
    /* It is not the dot's line that `take` has measured: that one is still open, or has less than 61 octets. */
    if (dot < 64 && seen.line_feeds >> dot == 0)
        lines->open--;
    p += task & STUFF ? dot : dot + 1;
    out += task & STUFF ? dot + 1 : dot;
    for (int lane = 0; lane < LANES; lane++)
        STORE(out + lane * (64 / LANES), LOAD(p + lane * (64 / LANES)));
    return dot == 64 ? 65 : 64;
}

static ALWAYS_INLINE TARGET size_t NAMED(walk)(
    struct walk *walk, const unsigned char *p, size_t at, size_t stop, enum task task
) {
    const size_t start = at;
    unsigned char *out = walk->out;
    struct NAMED(sight) taken = {.lonely = NOTHING, .nul = NOTHING, .all_bits = NOTHING};
    while (at < stop) {
        /* `look` needs the octet in front, and does not see that a dot is the first octet. */
        const int begins_with_dot = task & DOTS && walk->line_begins && p[at] == '.';
        if ((at > start || walk->resumed) && !begins_with_dot) {
            const size_t before = at;
            struct lines lines = walk->lines;
            while (stop - at > 128) {
                const struct NAMED(sight) first = NAMED(look)(p + at, out, task);
                const struct NAMED(sight) second = NAMED(look)(p + at + 64, out + (task & COPY ? 64 : 0), task);
                const VECTOR first_odd = NAMED(odd)(&first, task);
                const int odd = ANY(OR(first_odd, NAMED(odd)(&second, task)));
                if (!odd || !ANY(first_odd)) {
                    NAMED(take)(&first, &taken, &lines, task);
                    if (!odd)
                        NAMED(take)(&second, &taken, &lines, task);
                    const size_t step = odd ? 64 : 128;
                    at += step;
                    out += task & COPY ? step : 0;
                }
                if (RARELY(odd)) {
                    const size_t done =
                        task & COPY ? NAMED(take_dot)(walk, p + at, stop - at, out, &taken, &lines, task) : 0;
                    if (done == 0)
                        break;
                    at += done;
                    out += task & STUFF ? done + 1 : done - 1;
                }
            }
            walk->lines = lines;
            if (at > before) {
                walk->behind_cr = p[at - 1] == '\r';
                walk->line_begins = p[at - 1] == '\n';
            }
        }
        const size_t size = stop - at < 64 ? stop - at : 64;
        const size_t done = NAMED(exactly)(walk, p + at, size, out, task);
        at += done;
        out += task & COPY ? done : 0;
        if (done == size)
            continue;
        if (!(task & COPY))
            break;
        if (task & STUFF) {
            if (walk->spare == 0)
                break;
            walk->spare--;
            *out++ = '.';
        } else {
            if (stop - at < 3 || (p[at + 1] == '\r' && p[at + 2] == '\n'))
                break;
            at++;
        }
        walk->line_begins = 0;
    }
    walk->out = out;
    walk->bare_lf |= ANY(taken.lonely);
    walk->nul |= ANY(taken.nul);
    walk->eight_bit |= ANY(taken.all_bits);
    return at;
}

#define WALKER(name, task)                                                                                             \
    static TARGET size_t NAMED(name)(struct walk * walk, const unsigned char *p, size_t at, size_t stop) {             \
        return NAMED(walk)(walk, p, at, stop, task);                                                                   \
    }
WALKER(measure, 0)
WALKER(find_dot, DOTS)
WALKER(unstuff, DOTS | COPY)
WALKER(find_bare, STUFF)
WALKER(find_dot_to_stuff, STUFF | DOTS)
WALKER(stuff, STUFF | DOTS | COPY)
#undef WALKER

static const walker NAMED(walkers)[TASKS] = {
    [0] = NAMED(measure),       [DOTS] = NAMED(find_dot),                  [DOTS | COPY] = NAMED(unstuff),
    [STUFF] = NAMED(find_bare), [STUFF | DOTS] = NAMED(find_dot_to_stuff), [STUFF | DOTS | COPY] = NAMED(stuff),
};

#undef VARIANT
#undef TARGET
#undef VECTOR
#undef LANES
#undef LOAD
#undef STORE
#undef EQUAL
#undef AND
#undef OR
#undef XOR
#undef NOTHING
#undef ANY
#undef BITS
#undef TOP_BIT

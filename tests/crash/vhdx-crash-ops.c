/*
 * VHDX crash test: operations on a file, and power cuts among them
 *
 * A flush that has succeeded makes stable what had ended before it started.
 * Of all else that had started when the power is cut, anything may be there or
 * not, each operation by itself: a write, zeroing or discard in part, torn
 * between sectors of 512 bytes; a change of the file's length whole.  What is
 * there has happened in an order that agrees with the operations' starts and
 * ends.  A header, all of whose fields lie in one such sector, may be spoilt
 * instead: that is what the second copy is for.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include "vhdx-crash.h"

void op_free(void *opaque)
{
    CrashOp *op = opaque;

    if (op->pages) {
        for (uint64_t i = 0; i < DIV_ROUND_UP(op->bytes, CRASH_PAGE); i++) {
            if (op->pages[i]) {
                image_page_unref(op->pages[i]);
            }
        }
        g_free(op->pages);
    }
    g_free(op->data);
    g_free(op);
}

/* Write @bytes bytes from @at on of @op, sharing pages with other images. */
static void op_write(CrashImage *img, CrashOp *op, uint64_t at,
                     uint64_t bytes)
{
    if (!op->pages) {
        op->pages = g_new0(CrashPage *, DIV_ROUND_UP(op->bytes, CRASH_PAGE));
    }
    while (bytes) {
        uint64_t place = op->offset + at;
        uint64_t n = MIN(bytes, CRASH_PAGE - place % CRASH_PAGE);

        if (n == CRASH_PAGE) {
            CrashPage **page = &op->pages[at / CRASH_PAGE];

            if (!*page) {
                *page = image_page_new(op->data + at);
            }
            image_put(img, place / CRASH_PAGE, *page);
        } else {
            image_write(img, place, n, op->data + at);
        }
        at += n;
        bytes -= n;
    }
}

/* Let @bytes bytes from @at on of @op take effect. */
static void op_effect(CrashImage *img, CrashOp *op, uint64_t at,
                      uint64_t bytes)
{
    uint64_t place = op->offset + at;

    switch (op->kind) {
    case OP_WRITE:
        op_write(img, op, at, bytes);
        break;
    case OP_ZERO:
        image_zero(img, place, bytes);
        break;
    case OP_DISCARD:
        if (place >= img->size) {
            break;
        }
        bytes = MIN(bytes, img->size - place);
        if (img->garbage && (op->seed & 3) > 1) {
            image_spoil(img, place, bytes);
        } else if (!img->garbage || (op->seed & 3) == 1) {
            image_zero(img, place, bytes);
        }
        break;
    default:
        g_assert_not_reached();
    }
}

/* Let a random part of @op take effect, cut between sectors. */
static void op_tear(CrashImage *img, CrashOp *op, CrashRng *rng)
{
    uint64_t sectors = DIV_ROUND_UP(op->bytes, CRASH_SECTOR);
    uint64_t run, at = 0;
    bool keep = rng_chance(rng, 50);
    /* One cut, or many; the less sectors a run has, the more there are. */
    uint64_t most = rng_chance(rng, 30) ? 0 :
                    MAX(sectors >> rng_below(rng, 6), 1);

    if (!most) {
        run = rng_below(rng, sectors + 1);
    }
    while (at < sectors) {
        if (most) {
            run = rng_below(rng, most) + 1;
        } else if (at) {
            run = sectors - at;
        }
        run = MIN(run, sectors - at);
        if (keep && run) {
            op_effect(img, op, at * CRASH_SECTOR,
                      MIN((at + run) * CRASH_SECTOR, op->bytes) -
                      at * CRASH_SECTOR);
        }
        keep = !keep;
        if (!run && !most) {
            /* All or nothing of it */
            run = sectors;
            if (keep) {
                op_effect(img, op, 0, op->bytes);
            }
        }
        at += run;
    }
}

void op_apply(CrashImage *img, const CrashOp *const_op)
{
    /* What is shared of it is the only thing that changes. */
    CrashOp *op = (CrashOp *)const_op;
    CrashRng rng = { op->seed };

    switch (op->kind) {
    case OP_FLUSH:
    case OP_READ:
        break;
    case OP_TRUNCATE:
        if (op->ret == 0) {
            image_truncate(img, op->offset);
        }
        break;
    default:
        if (op->ret == 0) {
            op_effect(img, op, 0, op->bytes);
        } else if (rng_chance(&rng, 60)) {
            op_tear(img, op, &rng);
        }
    }
}

/* -- Going through time -- */

static int compare_end(const void *a, const void *b)
{
    const CrashOp *x = *(CrashOp **)a, *y = *(CrashOp **)b;

    return x->end < y->end ? -1 : x->end > y->end;
}

CrashCursor *cursor_new(const CrashImage *base, GPtrArray *ops,
                        uint64_t payload)
{
    CrashCursor *cur = g_new(CrashCursor, 1);

    *cur = (CrashCursor) {
        .ops = ops,
        .by_end = g_ptr_array_new(),
        .flushes = g_ptr_array_new(),
        .stable = image_copy(base),
        .payload = payload,
    };
    for (guint i = 0; i < ops->len; i++) {
        CrashOp *op = g_ptr_array_index(ops, i);

        if (op->kind != OP_FLUSH) {
            g_ptr_array_add(cur->by_end, op);
        } else if (op->ret == 0) {
            g_ptr_array_add(cur->flushes, op);
        }
    }
    g_ptr_array_sort(cur->by_end, compare_end);
    g_ptr_array_sort(cur->flushes, compare_end);
    return cur;
}

void cursor_free(CrashCursor *cur)
{
    g_ptr_array_unref(cur->by_end);
    g_ptr_array_unref(cur->flushes);
    image_free(cur->stable);
    g_free(cur);
}

/* Whether @op needs no further flush, be it in the file or gone from it. */
static bool cursor_is_past(const CrashCursor *cur, const CrashOp *op)
{
    return op->kind == OP_FLUSH ||
           (cur->applied < cur->by_end->len ? compare_end(&op,
            (const CrashOp **)&cur->by_end->pdata[cur->applied]) < 0 : true);
}

void cursor_advance(CrashCursor *cur, uint32_t now)
{
    CrashOp *op;

    cur->now = now;
    for (; cur->flushed < cur->flushes->len; cur->flushed++) {
        CrashOp *flush = g_ptr_array_index(cur->flushes, cur->flushed);

        if (flush->end > now) {
            break;
        }
        for (; cur->applied < cur->by_end->len; cur->applied++) {
            op = g_ptr_array_index(cur->by_end, cur->applied);
            if (op->end > flush->start) {
                break;
            }
            if (!op->lost) {
                op_apply(cur->stable, op);
            }
        }
    }
    for (; cur->first < cur->ops->len; cur->first++) {
        if (!cursor_is_past(cur, g_ptr_array_index(cur->ops, cur->first))) {
            break;
        }
    }
}

/* Kinds of operations that a cut may treat alike */
enum { CLASS_SIZE, CLASS_HEADER, CLASS_LOG, CLASS_TABLE, CLASS_PAYLOAD };

static int op_class(CrashCursor *cur, const CrashOp *op)
{
    return op->kind == OP_TRUNCATE ? CLASS_SIZE :
           op->offset < MiB ? CLASS_HEADER :
           op->offset < 2 * MiB ? CLASS_LOG :
           op->offset < cur->payload ? CLASS_TABLE : CLASS_PAYLOAD;
}

static bool op_is_header(const CrashOp *op)
{
    return op->kind == OP_WRITE && op->offset >= 64 * KiB &&
           op->offset < 192 * KiB;
}

typedef struct Survivor {
    CrashOp *op;
    uint64_t when;
    bool whole;
} Survivor;

static int compare_when(const void *a, const void *b)
{
    const Survivor *x = a, *y = b;

    return x->when < y->when ? -1 : x->when > y->when;
}

/* Which of the pending operations in @all a cut loses. */
static void cut_choose(CrashCursor *cur, GArray *all, CrashRng *rng)
{
    static const unsigned tears[] = { 0, 25, 100 };
    static const unsigned keeps[] = { 15, 50, 85 };
    unsigned way = rng_below(rng, 6);
    unsigned tear = tears[rng_below(rng, ARRAY_SIZE(tears))];
    unsigned keep = keeps[rng_below(rng, ARRAY_SIZE(keeps))];
    int class = rng_below(rng, CLASS_PAYLOAD + 1);
    guint one = rng_below(rng, all->len);

    if (all->len == 1) {
        /* That it is there, or not, is a cut of another kind. */
        g_array_index(all, Survivor, 0).whole = false;
        return;
    }
    for (guint i = 0, n = 0; i < all->len; n++) {
        Survivor *s = &g_array_index(all, Survivor, i);
        bool lost;

        switch (way) {
        case 0:
            lost = n != one;
            break;
        case 1:
            lost = n == one;
            break;
        case 2:
            lost = op_class(cur, s->op) == class;
            break;
        case 3:
            lost = op_class(cur, s->op) != class;
            break;
        default:
            lost = !rng_chance(rng, keep);
        }
        if (lost) {
            g_array_remove_index(all, i);
        } else {
            s->whole = !rng_chance(rng, tear);
            i++;
        }
    }
}

CrashImage *cursor_cut(CrashCursor *cur, CrashCut cut, CrashRng *rng,
                       unsigned *pending)
{
    g_autoptr(GArray) all = g_array_new(false, false, sizeof(Survivor));
    CrashImage *img = image_copy(cur->stable);

    for (guint i = cur->first; i < cur->ops->len; i++) {
        CrashOp *op = g_ptr_array_index(cur->ops, i);
        Survivor s = { .op = op, .whole = true };

        if (op->start > cur->now) {
            break;
        }
        if (!cursor_is_past(cur, op)) {
            uint32_t last = MIN(op->end, cur->now);

            /* Space to tell apart those that happened at the same time */
            s.when = (op->start + rng_below(rng, last - op->start + 1)) *
                     (uint64_t)65536 + rng_below(rng, 65536);
            g_array_append_val(all, s);
        }
    }
    *pending = all->len;
    if (cut == CUT_NONE || !all->len) {
        return img;
    }
    if (cut == CUT_RANDOM) {
        cut_choose(cur, all, rng);
    }
    g_array_sort(all, compare_when);
    for (guint i = 0; i < all->len; i++) {
        Survivor *s = &g_array_index(all, Survivor, i);

        if (s->op->ret < 0 && s->op->end <= cur->now) {
            op_apply(img, s->op);
        } else if (s->op->kind == OP_TRUNCATE) {
            if (s->op->ret == 0) {
                image_truncate(img, s->op->offset);
            }
        } else if (s->whole) {
            op_effect(img, s->op, 0, s->op->bytes);
        } else if (op_is_header(s->op)) {
            image_spoil(img, s->op->offset, s->op->bytes);
        } else {
            op_tear(img, s->op, rng);
        }
    }
    return img;
}

/* -- Given cuts -- */

GPtrArray *cursor_pending(const CrashCursor *cur)
{
    GPtrArray *pending = g_ptr_array_new();

    for (guint i = cur->first; i < cur->ops->len; i++) {
        CrashOp *op = g_ptr_array_index(cur->ops, i);

        if (op->start > cur->now) {
            break;
        }
        if (!cursor_is_past(cur, op)) {
            g_ptr_array_add(pending, op);
        }
    }
    return pending;
}

CrashImage *cursor_cut_as(const CrashCursor *cur, const GPtrArray *pending,
                          const CrashFate *fates)
{
    CrashImage *img = image_copy(cur->stable);

    for (guint i = 0; i < pending->len; i++) {
        CrashOp *op = g_ptr_array_index(pending, i);
        uint64_t half = op->bytes / 2 / CRASH_SECTOR * CRASH_SECTOR;

        if (fates[i] == FATE_LOST) {
            continue;
        }
        if (op->kind == OP_TRUNCATE) {
            image_truncate(img, op->offset);
        } else if (fates[i] == FATE_WHOLE) {
            op_effect(img, op, 0, op->bytes);
        } else if (op_is_header(op)) {
            image_spoil(img, op->offset, op->bytes);
        } else if (fates[i] == FATE_TORN) {
            op_effect(img, op, 0, half);
        } else {
            op_effect(img, op, half, op->bytes - half);
        }
    }
    return img;
}

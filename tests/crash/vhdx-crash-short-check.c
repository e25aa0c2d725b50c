/*
 * VHDX crash test: what must hold after a cut in a short history
 *
 * The power is cut at each stamp at which that leaves something new: when an
 * operation has begun, and when a request has ended that makes things stable.
 * Of what need not be there, each one, and each two, are lost or torn, or all
 * but one are lost.  A write is torn in the middle.  Where nothing but the
 * start of an operation is new, cuts that lose it leave what those before it
 * left.
 *
 * The files are then judged as those of a chain, of one image or more.  All of
 * the guest's disk is looked at.  What is right in one history is so in each,
 * as far as it does not depend on time: it is known by a hash, with what the
 * disk holds, and the model is asked about that.  Of those states that are new,
 * some are opened, written to and closed, which is a run like a history: all
 * that was there must be still after each cut of that.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "vhdx-crash-dirty.h"

/* One of so many new states is recovered. */
#define RECOVER_ONE_OF      32

/* A state that was right */
typedef struct Known {
    uint64_t disk_size;
    bool behind;                /* the BAT goes on behind the last block */
    const uint32_t *seen;       /* by sector: shared */
    CrashDirty *dirty;
} Known;

/* What is under way */
typedef struct Check {
    CrashContext *ctx;
    const ShortRun *run;
    ShortKnown *known;
    CrashCursor *cursors[CRASH_LEVELS];
    GPtrArray *pending[CRASH_LEVELS];
    CrashFate *fates[CRASH_LEVELS];
    CrashImage *whole[CRASH_LEVELS];    /* nothing pending is lost */
    uint64_t hashes[CRASH_LEVELS];
    GHashTable *allowed;        /* @seen that the model allows at this point */
    int level;                  /* of the image in use */
    bool linked;
    uint32_t now;
    unsigned count;             /* operations that a cut could lose */
    uint32_t *seen;
    CrashRng rng;
} Check;

static guint contents_hash(gconstpointer key)
{
    const uint32_t *seen = key;
    uint64_t hash = 0;

    for (uint32_t i = 1; i <= seen[0]; i++) {
        hash = hash * 0x9e3779b97f4a7c15ULL + seen[i];
    }
    return crash_mix(hash);
}

static gboolean contents_equal(gconstpointer a, gconstpointer b)
{
    const uint32_t *x = a, *y = b;

    return x[0] == y[0] && !memcmp(x, y, (x[0] + 1) * sizeof(*x));
}

static void known_free(void *opaque)
{
    Known *known = opaque;

    dirty_unref(known->dirty);
    g_free(known);
}

ShortKnown *short_known_new(void)
{
    ShortKnown *known = g_new0(ShortKnown, 1);

    known->states = g_hash_table_new_full(NULL, NULL, NULL, known_free);
    /* The first word is how many there are. */
    known->contents = g_hash_table_new_full(contents_hash, contents_equal,
                                            g_free, NULL);
    return known;
}

void short_known_free(ShortKnown *known)
{
    g_hash_table_destroy(known->states);
    g_hash_table_destroy(known->contents);
    g_free(known);
}

static guint seen_words(const Check *c)
{
    return c->run->model->spots->len * CRASH_SECTORS;
}

/* A copy of c->seen, the same one for the same content of a disk as long */
static const uint32_t *seen_share(Check *c, uint64_t disk_size)
{
    guint words = seen_words(c);
    uint32_t *copy = g_new(uint32_t, words + 2), *found;

    copy[0] = words + 1;
    copy[1] = disk_size / CRASH_SECTOR;
    memcpy(copy + 2, c->seen, words * sizeof(*copy));
    found = g_hash_table_lookup(c->known->contents, copy);
    if (found) {
        g_free(copy);
    } else {
        g_hash_table_add(c->known->contents, copy);
        found = copy;
    }
    return found + 2;
}

/* -- One state -- */

/* Whether the model allows what a known state holds; or what is wrong */
static char *check_known(Check *c, const Known *known)
{
    const CrashModel *model = c->run->model;

    if (!model_allows_size(model, known->disk_size)) {
        return text("the disk has %" PRIu64 " bytes", known->disk_size);
    }
    if (known->behind && !c->run->resized) {
        return text("the BAT goes on behind the last block");
    }
    if (g_hash_table_contains(c->allowed, known->seen)) {
        return tracks_check(model, known->dirty, known->seen);
    }
    for (guint i = 0; i < seen_words(c); i++) {
        CrashSpot *spot = &g_array_index(model->spots, CrashSpot,
                                         i / CRASH_SECTORS);

        if (spot->page * CRASH_PAGE < known->disk_size &&
            !model_allows(model, spot, i % CRASH_SECTORS, known->seen[i])) {
            return text("sector %u holds write %d; it held %d; the latest "
                        "stable one started at stamp %u", i,
                        (int)known->seen[i],
                        (int)spot->base[i % CRASH_SECTORS],
                        spot->stable[i % CRASH_SECTORS]);
        }
    }
    g_hash_table_add(c->allowed, (void *)known->seen);
    return tracks_check(model, known->dirty, known->seen);
}

/* Read what goes with the image in use, or with its parent: see chain-check. */
static char *files_find(Check *c, CrashFiles *f, int *used)
{
    char *why = files_read(f);
    CrashReader *r = f->readers[c->level];

    *used = c->level;
    why = why ?: files_link(f, *used);
    if (!why && !f->fit && !c->linked && !g_hash_table_size(r->blocks) &&
        !g_hash_table_size(r->zeros)) {
        why = files_link(f, --*used);
    }
    if (!why && !f->fit) {
        why = text("the images do not go together");
    }
    if (!why && f->count != *used + 1) {
        why = text("image %d has %d parents", *used, f->count - 1);
    }
    return why;
}

static bool headers_closed(const CrashReader *r)
{
    return r->header_valid[0] && r->header_valid[1] && !r->log_named[0] &&
           !r->log_named[1] && r->copies_agree;
}

/* Judge files by what they say themselves; the guest's disk is @c->seen. */
static char *check_files(Check *c, CrashFiles *f, int *used, bool closed)
{
    const CrashModel *model = c->run->model;
    char *why = files_find(c, f, used);
    CrashReader *r = f->readers[*used];

    for (int i = 0; !why && closed && i < f->count; i++) {
        /*
         * After a kill nothing need have been written to it, but for the one
         * that is used on.
         */
        bool written = c->run->further ? i == *used : !c->run->killed;

        if (written && !headers_closed(f->readers[i])) {
            why = text("image %d was closed, but its headers are not in order",
                       i);
        }
    }
    if (!why && !model_allows_size(model, r->disk_size)) {
        why = text("the disk has %" PRIu64 " bytes", r->disk_size);
    }
    if (!why && r->behind && !c->run->resized) {
        why = text("the BAT goes on behind the last block");
    }
    why = why ?: check_spots(r, model, c->seen);
    why = why ?: tracks_check(model, r->dirty_bitmaps, c->seen);
    return why ?: files_check_driver(c->ctx, f, model, &c->rng);
}

/* What the cut does, in words */
static char *fates_text(Check *c)
{
    static const char *const names[] = { "", "lost", "torn", "torn (end)" };
    GString *str = g_string_new(NULL);

    for (int i = 0; i <= c->level; i++) {
        for (guint n = 0; n < c->pending[i]->len; n++) {
            const CrashOp *op = g_ptr_array_index(c->pending[i], n);

            if (c->fates[i][n]) {
                g_string_append_printf(str, ", image %d's %s at %" PRIu64 " %s",
                                       i, op->kind == OP_TRUNCATE ? "length" :
                                       op->kind == OP_WRITE ? "write" :
                                       op->kind == OP_ZERO ? "zeroing" :
                                       "discard", op->offset,
                                       names[c->fates[i][n]]);
            }
        }
    }
    return g_string_free(str, false);
}

/* Use what a cut has left, and check what cuts leave of that. */
static void check_further(Check *c, const CrashFiles *f, const char *fates,
                          unsigned choice)
{
    g_autofree char *words = text("%s' cut at stamp %u%s, '", c->run->history,
                                  c->now, fates);
    ShortRun *run = short_run_further(c->ctx->workload, c->run, f, c->seen,
                                      words, choice);

    c->known->recovered++;
    short_check(c->ctx, run, c->known);
    short_run_free(run);
}

/*
 * Check @images, which have @hash together.  With @closed they must have no
 * log.  Returns NULL or what is wrong.
 */
static char *check_state(Check *c, CrashImage *const *images, uint64_t hash,
                         bool closed)
{
    Known *known = g_hash_table_lookup(c->known->states,
                                       (void *)(uintptr_t)hash);
    CrashFiles f = { .fit = true };
    char *why;
    int used;

    if (known && !closed) {
        return check_known(c, known);
    }
    c->ctx->totals.states++;
    for (int i = 0; i <= c->level; i++) {
        f.images[i] = images[i];
    }
    why = check_files(c, &f, &used, closed);
    if (!why && !closed) {
        known = g_new(Known, 1);
        *known = (Known) {
            .disk_size = f.readers[used]->disk_size,
            .behind = f.readers[used]->behind,
            .seen = seen_share(c, f.readers[used]->disk_size),
            .dirty = dirty_ref(f.readers[used]->dirty_bitmaps),
        };
        g_hash_table_insert(c->known->states, (void *)(uintptr_t)hash, known);
    }
    if (!why && !closed && !c->run->further &&
        crash_mix(hash) % RECOVER_ONE_OF == 0) {
        g_autofree char *fates = fates_text(c);

        check_further(c, &f, fates, crash_mix(hash) / RECOVER_ONE_OF);
    }
    files_free(&f);
    return why;
}

/* -- The cuts at one stamp -- */

/* One of the operations that a cut could lose */
static CrashFate *fate_of(Check *c, unsigned n, const CrashOp **op)
{
    int i = 0;

    while (n >= c->pending[i]->len) {
        n -= c->pending[i++]->len;
    }
    *op = g_ptr_array_index(c->pending[i], n);
    return &c->fates[i][n];
}

/* Check what is left by the cut that the fates tell. */
static void check_cut(Check *c)
{
    CrashImage *images[CRASH_LEVELS];
    uint64_t hash = c->level * 2 + c->linked;
    char *why;

    if (enough(c->ctx)) {
        return;
    }
    for (int i = 0; i <= c->level; i++) {
        bool all = true;

        for (guint n = 0; n < c->pending[i]->len; n++) {
            all &= c->fates[i][n] == FATE_WHOLE;
        }
        images[i] = all ? c->whole[i] :
                    cursor_cut_as(c->cursors[i], c->pending[i], c->fates[i]);
        hash = crash_mix(hash + (all ? c->hashes[i] : image_hash(images[i])));
    }
    c->known->cuts++;
    why = check_state(c, images, hash, false);
    if (why) {
        g_autofree char *fates = fates_text(c);
        g_autofree char *path = text(", '%s', stamp %u%s", c->run->history,
                                     c->now, fates);

        violation(c->ctx, images[c->level], path, why);
        g_free(why);
    }
    for (int i = 0; i <= c->level; i++) {
        if (images[i] != c->whole[i]) {
            image_free(images[i]);
        }
    }
}

/* Whether a cut can do @fate to @op. */
static bool is_possible(const CrashOp *op, CrashFate fate)
{
    return fate <= FATE_LOST ||
           (op->kind != OP_TRUNCATE && op->bytes > CRASH_SECTOR);
}

/* What is done to @n when @other is lost, torn or neither. */
static void check_two(Check *c, unsigned n, unsigned other, bool fresh)
{
    const CrashOp *op, *second;
    CrashFate *a = fate_of(c, n, &op), *b = fate_of(c, other, &second);

    for (*a = FATE_LOST; *a <= FATE_REST; ++*a) {
        for (*b = FATE_LOST; *b <= FATE_REST; ++*b) {
            if (is_possible(op, *a) && is_possible(second, *b) &&
                !(fresh && *b == FATE_LOST)) {
                check_cut(c);
            }
        }
    }
    *a = *b = FATE_WHOLE;
}

/* All cuts.  With @fresh, the last operation has just begun, and is there. */
static void check_all(Check *c, bool fresh, unsigned last)
{
    const CrashOp *op;
    CrashFate *fate;

    check_cut(c);
    for (unsigned n = 0; n < c->count; n++) {
        fate = fate_of(c, n, &op);
        for (*fate = FATE_LOST; *fate <= FATE_REST; ++*fate) {
            if (is_possible(op, *fate) &&
                !(fresh && n == last && *fate == FATE_LOST)) {
                check_cut(c);
            }
        }
        *fate = FATE_WHOLE;
    }
    for (unsigned n = 0; n < c->count; n++) {
        for (unsigned other = n + 1; other < c->count; other++) {
            if (other == last || n != last) {
                check_two(c, n, other, fresh && other == last);
            } else {
                check_two(c, other, n, fresh);
            }
        }
    }
    if (c->count < 3) {
        return;
    }
    for (unsigned n = 0; n <= c->count; n++) {
        /* All but one, or all, are lost. */
        if (fresh && n != last) {
            continue;
        }
        for (unsigned k = 0; k < c->count; k++) {
            *fate_of(c, k, &op) = k == n ? FATE_WHOLE : FATE_LOST;
        }
        check_cut(c);
        for (unsigned k = 0; k < c->count; k++) {
            *fate_of(c, k, &op) = FATE_WHOLE;
        }
    }
}

/* Cut the power at stamp @now, at which @fresh has begun, or NULL. */
static void check_point(Check *c, uint32_t now, const CrashOp *fresh)
{
    unsigned last = UINT_MAX;

    c->now = now;
    c->count = 0;
    c->ctx->totals.points++;
    c->allowed = g_hash_table_new(NULL, NULL);
    for (guint i = 0; i < c->run->uses->len; i++) {
        ShortUse *use = &g_array_index(c->run->uses, ShortUse, i);

        if (use->now <= now) {
            c->level = use->level;
            c->linked = use->linked;
        }
    }
    model_advance(c->run->model, now);
    for (int i = 0; i <= c->level; i++) {
        cursor_advance(c->cursors[i], now);
        c->pending[i] = cursor_pending(c->cursors[i]);
        c->fates[i] = g_new0(CrashFate, c->pending[i]->len + 1);
        c->whole[i] = cursor_cut_as(c->cursors[i], c->pending[i], c->fates[i]);
        c->hashes[i] = image_hash(c->whole[i]);
        for (guint n = 0; n < c->pending[i]->len; n++) {
            if (g_ptr_array_index(c->pending[i], n) == fresh) {
                last = c->count + n;
            }
        }
        c->count += c->pending[i]->len;
    }
    check_all(c, last != UINT_MAX, last);
    for (int i = 0; i <= c->level; i++) {
        g_ptr_array_unref(c->pending[i]);
        g_free(c->fates[i]);
        image_free(c->whole[i]);
    }
    g_hash_table_destroy(c->allowed);
}

/* -- A history -- */

typedef struct Point {
    uint32_t now;
    const CrashOp *fresh;
} Point;

static int compare_points(const void *a, const void *b)
{
    const Point *x = a, *y = b;

    return x->now < y->now ? -1 : x->now > y->now;
}

static GArray *points_of(const ShortRun *run)
{
    GArray *points = g_array_new(false, false, sizeof(Point));

    for (int i = 0; i < run->count; i++) {
        GPtrArray *ops = run->runs[i]->ops;

        for (guint n = 0; n < ops->len; n++) {
            CrashOp *op = g_ptr_array_index(ops, n);
            Point point = { op->start, op };

            if (op->kind != OP_FLUSH && op->start >= run->from) {
                g_array_append_val(points, point);
            }
        }
    }
    for (guint i = 0; i < run->points->len; i++) {
        Point point = { g_array_index(run->points, uint32_t, i), NULL };

        if (point.now >= run->from) {
            g_array_append_val(points, point);
        }
    }
    g_array_sort(points, compare_points);
    return points;
}

/* The images were closed at the end: they are in order. */
static char *check_closed(Check *c)
{
    CrashImage *images[CRASH_LEVELS];

    for (int i = 0; i <= c->level; i++) {
        images[i] = c->run->runs[i]->last;
    }
    return check_state(c, images, 1, true);
}

void short_check(CrashContext *ctx, const ShortRun *run, ShortKnown *known)
{
    Check c = {
        .ctx = ctx,
        .run = run,
        .known = known,
        .seen = g_new(uint32_t, run->model->spots->len * CRASH_SECTORS),
        .rng = { 1 },
    };
    g_autoptr(GArray) points = points_of(run);
    char *why;

    for (int i = 0; i < run->count; i++) {
        c.cursors[i] = cursor_new(run->runs[i]->base, run->runs[i]->ops,
                                  run->runs[i]->payload);
    }
    for (guint i = 0; i < points->len && !enough(ctx); i++) {
        Point *point = &g_array_index(points, Point, i);

        check_point(&c, point->now, point->fresh);
    }
    why = run->wrong ? g_strdup(run->wrong) :
          enough(ctx) ? NULL : check_closed(&c);
    if (why) {
        g_autofree char *path = text(", '%s'", run->history);

        violation(ctx, NULL, path, why);
        g_free(why);
    }
    for (int i = 0; i < run->count; i++) {
        cursor_free(c.cursors[i]);
    }
    g_free(c.seen);
}

/*
 * VHDX crash test: what dirty bitmaps must have
 *
 * What happens to persistent bitmaps is noted with its stamps, as are requests.
 * So it is known for each stamp which bits a bitmap must have: those of all
 * writes that have ended while it recorded, and what commands have put into it,
 * since it was cleared or made.  Zeroes count where there was something else
 * for certain: what changes nothing need not be known.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include "vhdx-crash-dirty.h"

#define PAGE_BITS   (CRASH_PAGE * 8)

/* Something that has begun or ended, to be told in this order */
typedef struct Step {
    uint32_t now;
    enum { OP_START, OP_END, EVENT_END } what;
    guint index;                    /* of the request or event */
} Step;

/* -- What is noted -- */

static uint64_t bits_bytes(uint64_t granules)
{
    return DIV_ROUND_UP(granules, PAGE_BITS) * CRASH_PAGE;
}

static CrashTrack *track_new(CrashTracks *tracks, const char *name,
                             unsigned granularity, uint64_t size)
{
    CrashTrack *t = g_new(CrashTrack, 1);
    uint64_t granules = DIV_ROUND_UP(size, 1ULL << granularity);
    uint64_t most = DIV_ROUND_UP(MAX(size, tracks->max_size),
                                 1ULL << granularity);

    *t = (CrashTrack) {
        .name = g_strdup(name),
        .granularity = granularity,
        .granules = granules,
        .gone_start = CRASH_NEVER,
        .gone_end = CRASH_NEVER,
        .bytes = bits_bytes(most),
        .must = g_malloc0(bits_bytes(most)),
        .may = g_malloc0(bits_bytes(most)),
    };
    g_ptr_array_add(tracks->list, t);
    return t;
}

static void track_free(void *opaque)
{
    CrashTrack *t = opaque;

    g_free(t->must);
    g_free(t->may);
    g_free(t->job_must);
    g_free(t->job_may);
    g_free(t->floor);
    g_free(t->name);
    g_free(t);
}

CrashTracks *tracks_new(const CrashDirty *dirty, uint64_t size,
                        uint64_t max_size)
{
    CrashTracks *tracks = g_new0(CrashTracks, 1);

    tracks->max_size = max_size;
    tracks->list = g_ptr_array_new_with_free_func(track_free);
    tracks->events = g_array_new(false, false, sizeof(CrashEvent));
    tracks->solid = g_hash_table_new(NULL, NULL);
    tracks->dropped = g_hash_table_new(NULL, NULL);
    for (guint i = 0; i < dirty->list->len; i++) {
        CrashBitmap *b = g_ptr_array_index(dirty->list, i);
        CrashTrack *t = track_new(tracks, b->name, b->granularity, size);

        t->bad = !b->counts;
        t->enabled = b->enabled;
        t->stored = true;
        for (uint64_t k = 0; b->counts && k < bits_bytes(t->granules); k++) {
            t->must[k] = t->may[k] = bitmap_byte(b, k);
        }
    }
    return tracks;
}

void tracks_free(CrashTracks *tracks)
{
    if (!tracks) {
        return;
    }
    g_ptr_array_unref(tracks->list);
    g_array_unref(tracks->events);
    g_hash_table_destroy(tracks->solid);
    g_hash_table_destroy(tracks->dropped);
    if (tracks->order) {
        g_array_unref(tracks->order);
    }
    g_free(tracks);
}

guint tracks_add(CrashTracks *tracks, const char *name, unsigned granularity,
                 uint64_t size, uint32_t now)
{
    track_new(tracks, name, granularity, size)->added = now;
    return tracks->list->len - 1;
}

void tracks_note(CrashTracks *tracks, CrashEvent event)
{
    if (event.kind == EVENT_REMOVE) {
        CrashTrack *t = g_ptr_array_index(tracks->list, event.track);

        t->gone_start = event.start;
        t->gone_end = event.ret < 0 ? CRASH_NEVER : event.end;
    }
    g_array_append_val(tracks->events, event);
}

void tracks_note_all(CrashTracks *tracks, CrashEventKind kind, uint32_t start,
                     uint32_t end, int ret)
{
    if (tracks) {
        tracks_note(tracks, (CrashEvent) {
            .kind = kind,
            .start = start,
            .end = end,
            .ret = ret,
        });
    }
}

guint tracks_find(const CrashTracks *tracks, const char *name)
{
    for (guint i = tracks->list->len; i--;) {
        CrashTrack *t = g_ptr_array_index(tracks->list, i);

        if (!strcmp(t->name, name)) {
            return i;
        }
    }
    g_assert_not_reached();
}

uint32_t tracks_point(const CrashTracks *tracks, uint32_t at, CrashRng *rng)
{
    bool store = rng_chance(rng, 75);
    guint count = 0;

    for (guint i = 0; i < tracks->events->len; i++) {
        CrashEvent *e = &g_array_index(tracks->events, CrashEvent, i);

        if ((e->kind == EVENT_STORE) == store && !rng_below(rng, ++count)) {
            at = e->start + rng_below(rng, e->end - e->start + 3);
        }
    }
    return at;
}

/* -- Going through time -- */

static bool bit_get(const uint8_t *bits, uint64_t i)
{
    return bits[i / 8] & 1 << i % 8;
}

/* Set the bits of @bytes bytes of the disk from @offset on, if it has them. */
static void bits_set(const CrashTrack *t, uint8_t *bits, uint64_t offset,
                     uint64_t bytes)
{
    uint64_t end = ((offset + bytes - 1) >> t->granularity) + 1;

    for (uint64_t i = offset >> t->granularity; i < MIN(end, t->granules);
         i++) {
        bits[i / 8] |= 1 << i % 8;
    }
}

/* Let @to, of @t, have the bits @from of @source. */
static void bits_merge(const CrashTrack *t, uint8_t *to,
                       const CrashTrack *source, const uint8_t *from)
{
    uint64_t granule = 1ULL << source->granularity;
    uint64_t size = MIN(t->granules << t->granularity,
                        source->granules << source->granularity);

    for (uint64_t i = 0; i < source->granules; i++) {
        if (!from[i / 8]) {
            i |= 7;
        } else if (bit_get(from, i)) {
            bits_set(t, to, i * granule, MIN(granule, size - i * granule));
        }
    }
}

uint32_t tracks_dropped(const CrashTracks *tracks, uint64_t sector)
{
    return (uintptr_t)g_hash_table_lookup(tracks->dropped,
                                          (void *)(uintptr_t)sector);
}

/* Zeroes or a discard begins. */
static void zero_start(CrashTracks *tracks, const GuestOp *op)
{
    for (uint64_t i = op->sector; i < op->sector + op->count; i++) {
        void *key = (void *)(uintptr_t)i;

        if (op->resize) {
            /* Where the disk has ended no bitmap tells of anything. */
            g_hash_table_remove(tracks->solid, key);
            g_hash_table_remove(tracks->dropped, key);
        } else if (g_hash_table_contains(tracks->solid, key) &&
                   !g_hash_table_contains(tracks->dropped, key)) {
            g_hash_table_insert(tracks->dropped, key,
                                (void *)(uintptr_t)op->start);
        }
    }
}

/* Whether another request may have zeroed @sector at the same time as @op. */
static bool is_shared(const CrashModel *model, const GuestOp *op,
                      uint64_t sector)
{
    for (guint i = 0; i < model->ops->len; i++) {
        GuestOp *other = &g_array_index(model->ops, GuestOp, i);

        if ((other->kind == GUEST_ZERO || other->kind == GUEST_DISCARD) &&
            other->start < op->end && other->end > op->start &&
            sector >= other->sector && sector < other->sector + other->count) {
            return true;
        }
    }
    return false;
}

/* The disk has another size. */
static void resize_end(CrashModel *model, const GuestOp *op)
{
    uint64_t size = 0;

    for (guint i = 0; i < model->resizes->len; i++) {
        GuestResize *r = &g_array_index(model->resizes, GuestResize, i);

        size = r->end == op->end ? r->size : size;
    }
    for (guint i = 0; op->ret == 0 && i < model->tracks->list->len; i++) {
        CrashTrack *t = g_ptr_array_index(model->tracks->list, i);

        if (t->added > op->end) {
            continue;
        }
        t->granules = DIV_ROUND_UP(size, 1ULL << t->granularity);
        for (uint64_t k = t->granules; k < t->bytes * 8; k++) {
            t->must[k / 8] &= ~(1 << k % 8);
            t->may[k / 8] &= ~(1 << k % 8);
        }
    }
}

/* Note what there is after @op, which has ended. */
static void solid_note(CrashModel *model, const GuestOp *op)
{
    CrashTracks *tracks = model->tracks;

    for (uint64_t i = op->sector; i < op->sector + op->count; i++) {
        void *key = (void *)(uintptr_t)i;

        if (op->kind == GUEST_WRITE) {
            g_hash_table_remove(tracks->dropped, key);
            if (op->ret == 0 && !op->exempt && !is_shared(model, op, i)) {
                g_hash_table_add(tracks->solid, key);
            } else {
                g_hash_table_remove(tracks->solid, key);
            }
        } else if (op->kind == GUEST_ZERO && op->ret == 0) {
            g_hash_table_remove(tracks->dropped, key);
            g_hash_table_remove(tracks->solid, key);
        }
    }
}

/* Let @bits, of @t, have what @op has changed for certain, which has ended. */
static void must_set(const CrashTracks *tracks, const CrashTrack *t,
                     uint8_t *bits, const GuestOp *op)
{
    if (op->kind == GUEST_WRITE) {
        bits_set(t, bits, op->sector * CRASH_SECTOR, op->count * CRASH_SECTOR);
        return;
    }
    for (uint64_t i = op->sector; i < op->sector + op->count; i++) {
        if (tracks_dropped(tracks, i) == op->start) {
            bits_set(t, bits, i * CRASH_SECTOR, CRASH_SECTOR);
        }
    }
}

/* Let @must and @may, of @t, have what they get by @op, which has ended. */
static void op_bits(const CrashTracks *tracks, const CrashTrack *t,
                    uint8_t *must, uint8_t *may, const GuestOp *op)
{
    bits_set(t, may, op->sector * CRASH_SECTOR, op->count * CRASH_SECTOR);
    if (op->ret == 0 && op->kind != GUEST_DISCARD) {
        must_set(tracks, t, must, op);
    }
}

static void op_end(CrashModel *model, const GuestOp *op)
{
    CrashTracks *tracks = model->tracks;

    if (op->resize) {
        resize_end(model, op);
        return;
    }
    for (guint i = 0; i < tracks->list->len; i++) {
        CrashTrack *t = g_ptr_array_index(tracks->list, i);
        bool there = !t->bad && t->added < op->end && op->end < t->gone_end;
        /* Who asked for a discard is told some time after it has ended. */
        bool late = op->kind == GUEST_DISCARD && op->start < t->changed;

        if (there && (t->enabled || late)) {
            op_bits(tracks, t, t->must, t->may, op);
            if (t->job_must) {
                op_bits(tracks, t, t->job_must, t->job_may, op);
            }
        }
    }
    solid_note(model, op);
}

/* The job that used @t has ended: @t has what is new since then, or all. */
static void job_end(CrashTrack *t, bool well)
{
    if (well) {
        memcpy(t->must, t->job_must, t->bytes);
        memcpy(t->may, t->job_may, t->bytes);
    }
    g_clear_pointer(&t->job_must, g_free);
    g_clear_pointer(&t->job_may, g_free);
}

static void event_step(CrashTracks *tracks, const CrashEvent *e)
{
    CrashTrack *t = e->kind < EVENT_STORE ?
                    g_ptr_array_index(tracks->list, e->track) : NULL;

    if (t) {
        t->changed = e->end;
        if (e->kind <= EVENT_JOB_DONE) {
            t->since = e->kind == EVENT_JOB_DONE ? t->job : e->end;
        }
    }
    switch (e->kind) {
    case EVENT_ADD:
        t->enabled = true;
        break;
    case EVENT_CLEAR:
        memset(t->must, 0, t->bytes);
        memset(t->may, 0, t->bytes);
        break;
    case EVENT_ENABLE:
    case EVENT_DISABLE:
        t->enabled = e->kind == EVENT_ENABLE;
        break;
    case EVENT_MERGE: {
        CrashTrack *source = g_ptr_array_index(tracks->list, e->source);

        bits_merge(t, t->must, source, source->must);
        bits_merge(t, t->may, source, source->may);
        break;
    }
    case EVENT_REMOVE:
        /* Where that has failed the name is gone, or not. */
        t->stored = false;
        break;
    case EVENT_JOB:
        t->job = e->end;
        t->job_must = g_malloc0(t->bytes);
        t->job_may = g_malloc0(t->bytes);
        break;
    case EVENT_JOB_DONE:
    case EVENT_JOB_FAILED:
        job_end(t, e->kind == EVENT_JOB_DONE);
        break;
    case EVENT_STORE:
        for (guint i = 0; e->ret == 0 && i < tracks->list->len; i++) {
            t = g_ptr_array_index(tracks->list, i);
            if (t->added < e->end) {
                t->stored = true;
            }
        }
        tracks->stored = e->ret == 0 ? e->end : tracks->stored;
        break;
    case EVENT_CHANGE:
        break;
    }
}

static int compare_steps(const void *a, const void *b)
{
    const Step *x = a, *y = b;

    return x->now < y->now ? -1 : x->now > y->now;
}

static GArray *steps_order(const CrashModel *model)
{
    GArray *order = g_array_new(false, false, sizeof(Step));
    Step step;

    for (guint i = 0; i < model->ops->len; i++) {
        GuestOp *op = &g_array_index(model->ops, GuestOp, i);

        step = (Step) { op->start, OP_START, i };
        if (op->kind == GUEST_ZERO || op->kind == GUEST_DISCARD) {
            g_array_append_val(order, step);
        }
        step = (Step) { op->end, OP_END, i };
        if (op->kind != GUEST_FLUSH) {
            g_array_append_val(order, step);
        }
    }
    for (guint i = 0; i < model->tracks->events->len; i++) {
        step = (Step) {
            g_array_index(model->tracks->events, CrashEvent, i).end,
            EVENT_END, i
        };
        g_array_append_val(order, step);
    }
    g_array_sort(order, compare_steps);
    return order;
}

/* Note what there was at first. */
static void solid_begin(CrashModel *model)
{
    for (guint i = 0; i < model->spots->len; i++) {
        CrashSpot *spot = &g_array_index(model->spots, CrashSpot, i);

        for (int k = 0; k < CRASH_SECTORS; k++) {
            uint64_t sector = spot->page * CRASH_SECTORS + k;

            if (spot->base[k] && spot->base[k] != CRASH_EITHER) {
                g_hash_table_add(model->tracks->solid,
                                 (void *)(uintptr_t)sector);
            }
        }
    }
}

/* Note the latest request for each sector that had ended when @t began. */
static void floor_make(const CrashModel *model, CrashTrack *t)
{
    guint count = model->spots->len;

    t->floor_at = t->since;
    g_free(t->floor);
    t->floor = g_new0(uint32_t, count * CRASH_SECTORS + 1);
    for (guint n = 0; n < model->ops->len; n++) {
        GuestOp *op = &g_array_index(model->ops, GuestOp, n);
        guint i = model_spot(model, op->sector / CRASH_SECTORS);

        if ((op->kind != GUEST_WRITE && op->kind != GUEST_ZERO) ||
            op->resize || op->ret < 0 || op->exempt || op->end > t->since) {
            continue;
        }
        for (; i < count; i++) {
            uint64_t sector = g_array_index(model->spots, CrashSpot, i).page *
                              CRASH_SECTORS;

            if (sector >= op->sector + op->count) {
                break;
            }
            for (int k = 0; k < CRASH_SECTORS; k++) {
                if (sector + k >= op->sector &&
                    sector + k < op->sector + op->count) {
                    uint32_t *floor = &t->floor[i * CRASH_SECTORS + k];

                    *floor = MAX(*floor, op->start);
                }
            }
        }
    }
}

static void floors_make(const CrashModel *model, uint32_t now)
{
    CrashTracks *tracks = model->tracks;

    for (guint i = 0; i < tracks->events->len; i++) {
        CrashEvent *e = &g_array_index(tracks->events, CrashEvent, i);

        if (e->kind == EVENT_STORE && e->start <= now) {
            tracks->storing = MAX(tracks->storing, e->start);
        }
    }
    for (guint i = 0; i < tracks->list->len; i++) {
        CrashTrack *t = g_ptr_array_index(tracks->list, i);

        if (t->enabled && t->since < tracks->storing &&
            (!t->floor || t->floor_at != t->since)) {
            floor_make(model, t);
        }
    }
}

/* Whether nothing has begun since bitmaps were stored that may change them. */
static bool is_quiet(const CrashModel *model, uint32_t now)
{
    uint32_t since = model->tracks->stored;

    for (guint i = 0; i < model->ops->len; i++) {
        GuestOp *op = &g_array_index(model->ops, GuestOp, i);

        if (op->kind != GUEST_FLUSH && op->start > since && op->start <= now) {
            return false;
        }
    }
    for (guint i = 0; i < model->tracks->events->len; i++) {
        CrashEvent *e = &g_array_index(model->tracks->events, CrashEvent, i);

        if (e->kind != EVENT_STORE && e->start > since && e->start <= now) {
            return false;
        }
    }
    return true;
}

void tracks_advance(CrashModel *model, uint32_t now)
{
    CrashTracks *tracks = model->tracks;

    if (!tracks->order) {
        tracks->order = steps_order(model);
        solid_begin(model);
    }
    for (; tracks->done < tracks->order->len; tracks->done++) {
        Step *step = &g_array_index(tracks->order, Step, tracks->done);

        if (step->now > now) {
            break;
        }
        switch (step->what) {
        case OP_START:
            zero_start(tracks, &g_array_index(model->ops, GuestOp,
                                              step->index));
            break;
        case OP_END:
            op_end(model, &g_array_index(model->ops, GuestOp, step->index));
            break;
        case EVENT_END:
            event_step(tracks, &g_array_index(tracks->events, CrashEvent,
                                              step->index));
        }
    }
    tracks->quiet = is_quiet(model, now);
    floors_make(model, now);
}

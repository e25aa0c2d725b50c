/*
 * VHDX crash test: what the guest may see
 *
 * Each sector that is written says which write made it and where it belongs,
 * in all of its 512 bytes.  For each sector of the guest's disk, a write or
 * zeroing v may be what is read after a power cut if it had started before
 * that, and no other one, w, that started after v had ended, is stable: that
 * is, w ended before a flush started which ended, successfully, before the cut.
 * What requests do that were not one after the other may come in any order.  A
 * discard may zero what it covers, and need not.  A request that failed may
 * have taken effect, and need not.
 *
 * What no request has touched holds what the parent has, where there is one.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include "vhdx-crash-dirty.h"

/* So many pages at a disk's end are looked at, and one of so many behind */
#define RESIZE_PAGES    (64 * MiB / CRASH_PAGE)
#define RESIZE_STEP     (512 * MiB / CRASH_PAGE)

CrashModel *model_new(const CrashModel *before, const uint32_t *seen,
                      const CrashShape *shape)
{
    CrashModel *model = g_new0(CrashModel, 1);

    model->shape = shape;
    model->first_id = before ? before->first_id + before->ops->len : 1;
    model->ops = g_array_new(false, false, sizeof(GuestOp));
    model->resizes = g_array_new(false, false, sizeof(GuestResize));
    model->resized_from = before ? before->resized_from : UINT64_MAX;
    model->first_resized_from = model->resized_from;
    model->resized_to = before ? before->resized_to : 0;
    model->spots = g_array_new(false, true, sizeof(CrashSpot));
    model->settled = g_array_new(false, true, sizeof(bool));
    for (guint i = 0; before && i < before->spots->len; i++) {
        CrashSpot spot = {
            .page = g_array_index(before->spots, CrashSpot, i).page,
        };

        memcpy(spot.base, seen + i * CRASH_SECTORS, sizeof(spot.base));
        g_array_append_val(model->spots, spot);
    }
    return model;
}

CrashModel *model_copy(const CrashModel *model)
{
    CrashModel *copy = model_new(NULL, NULL, model->shape);

    copy->first_id = model->first_id;
    copy->first_size = model->first_size;
    g_array_append_vals(copy->ops, model->ops->data, model->ops->len);
    g_array_append_vals(copy->spots, model->spots->data, model->spots->len);
    model_settle(copy);
    return copy;
}

void model_free(CrashModel *model)
{
    if (!model) {
        return;
    }
    g_array_unref(model->ops);
    g_array_unref(model->resizes);
    g_array_unref(model->spots);
    g_array_unref(model->settled);
    tracks_free(model->tracks);
    g_free(model);
}

unsigned model_begin(CrashModel *model, GuestKind kind, uint64_t sector,
                     uint64_t count, uint32_t now)
{
    GuestOp op = {
        .kind = kind,
        .sector = sector,
        .count = count,
        .start = now,
        .end = CRASH_NEVER,
        .ret = -EINPROGRESS,
    };

    g_array_append_val(model->ops, op);
    record_guest(model->ops->len - 1, &op);
    return model->ops->len - 1;
}

void model_end(CrashModel *model, unsigned index, uint32_t now, int ret)
{
    GuestOp *op = &g_array_index(model->ops, GuestOp, index);

    op->end = now;
    op->ret = ret;
    record_guest_end(index, ret);
}

unsigned model_resize_begin(CrashModel *model, uint64_t size,
                            uint64_t new_size, uint64_t max_size,
                            uint32_t now)
{
    GuestResize resize = {
        .size = new_size,
        .start = now,
        .end = CRASH_NEVER,
        .ret = -EINPROGRESS,
    };
    uint64_t from = MIN(size, new_size) / CRASH_SECTOR;
    unsigned index = model_begin(model, GUEST_ZERO, from,
                                 max_size / CRASH_SECTOR - from, now);

    /* It is stable when it ends. */
    g_array_index(model->ops, GuestOp, index).fua = true;
    g_array_index(model->ops, GuestOp, index).resize = true;
    model->resized_from = MIN(model->resized_from, from);
    model->resized_to = MAX(model->resized_to, MAX(size, new_size));
    g_array_append_val(model->resizes, resize);
    return index;
}

void model_resize_end(CrashModel *model, unsigned index, uint32_t now, int ret)
{
    GuestResize *resize = &g_array_index(model->resizes, GuestResize,
                                         model->resizes->len - 1);

    model_end(model, index, now, ret);
    resize->end = now;
    resize->ret = ret;
}

void model_resize_flushed(CrashModel *model, uint32_t start, uint32_t end)
{
    for (guint i = 0; i < model->resizes->len; i++) {
        GuestResize *r = &g_array_index(model->resizes, GuestResize, i);

        if (r->end < start && !r->undone) {
            r->undone = end;
        }
    }
}

/*
 * A write that fails may be in the file as a whole: so may the log entry of a
 * resize that has found no space, until the next commit writes over it.
 */
bool model_allows_size(const CrashModel *model, uint64_t size)
{
    bool allowed = size == model->first_size;

    for (guint i = 0; i < model->resizes->len; i++) {
        GuestResize *r = &g_array_index(model->resizes, GuestResize, i);

        if (r->start > model->now) {
            break;
        }
        if (r->end <= model->now && r->ret == 0) {
            allowed = size == r->size;
        } else if (r->end > model->now || r->ret != -ENOSPC || !r->undone ||
                   r->undone > model->now) {
            allowed |= size == r->size;
        }
    }
    return allowed;
}

/* -- What sectors hold -- */

/* Word @i of sector @sector as write @id makes it. */
static uint64_t word_of(uint32_t id, uint64_t sector, int i)
{
    switch (i) {
    case 0:
        return 0x6f7a5c0000000000ULL | id;
    case 1:
        return sector;
    default:
        return crash_mix(id * 0x9e3779b97f4a7c15ULL + sector) + i;
    }
}

static void sector_fill(uint32_t id, uint64_t sector, uint8_t *buf)
{
    uint64_t base = word_of(id, sector, 2);

    for (int i = 0; i < CRASH_SECTOR / 8; i++) {
        uint64_t word = i < 2 ? word_of(id, sector, i) : base + i - 2;

        memcpy(buf + i * 8, &word, 8);
    }
}

void model_fill(CrashModel *model, unsigned index, uint64_t sector,
                uint64_t count, uint8_t *buf)
{
    for (uint64_t i = 0; i < count; i++) {
        sector_fill(model->first_id + index, sector + i,
                    buf + i * CRASH_SECTOR);
    }
}

void model_fill_parent(uint64_t sector, uint64_t count, uint8_t *buf)
{
    for (uint64_t i = 0; i < count; i++) {
        sector_fill(CRASH_PARENT, sector + i, buf + i * CRASH_SECTOR);
    }
}

/* What @sector held when the image was made. */
static uint32_t model_first(const CrashModel *model, uint64_t sector)
{
    uint64_t at = sector * CRASH_SECTOR;

    /* A disk that gets longer has zeros there. */
    if (at >= model->shape->disk_size ||
        !parent_has(model->shape->parent_size, at / CRASH_PAGE) ||
        (at >= model->shape->zero_from && at < model->shape->zero_end)) {
        return 0;
    }
    return sector < model->first_resized_from ? CRASH_PARENT : CRASH_EITHER;
}

/* Whether a sector that held @base at first may hold @id, if that is left. */
static bool base_is(uint32_t base, uint32_t id)
{
    return id == base ||
           (base == CRASH_EITHER && (!id || id == CRASH_PARENT));
}

/* The write that made the sector @buf, 0 for zeros, CRASH_NEVER for none. */
static uint32_t sector_decode(const uint8_t *buf, uint64_t *sector)
{
    uint8_t expected[CRASH_SECTOR];
    uint64_t word;
    uint32_t id;

    memcpy(&word, buf, 8);
    id = word;
    memcpy(sector, buf + 8, 8);
    if (!word) {
        return buffer_is_zero(buf, CRASH_SECTOR) ? 0 : CRASH_NEVER;
    }
    sector_fill(id, *sector, expected);
    return id && !memcmp(buf, expected, CRASH_SECTOR) ? id : CRASH_NEVER;
}

uint32_t model_decode(CrashPage *page, unsigned i, uint64_t *sector)
{
    if (!page->decoded) {
        for (int k = 0; k < CRASH_SECTORS; k++) {
            page->id[k] = sector_decode(page->data + k * CRASH_SECTOR,
                                        &page->sector[k]);
        }
        page->decoded = true;
    }
    *sector = page->sector[i];
    return page->id[i];
}

/* -- Reads of the guest -- */

static GuestOp *model_op(CrashModel *model, guint index)
{
    return &g_array_index(model->ops, GuestOp, index);
}

static bool op_covers(const GuestOp *op, uint64_t sector)
{
    return op->kind != GUEST_FLUSH && sector >= op->sector &&
           sector - op->sector < op->count;
}

/* What @sector held when this model began. */
static uint32_t model_base(CrashModel *model, uint64_t sector)
{
    guint i = model_spot(model, sector / CRASH_SECTORS);
    CrashSpot *spot;

    if (i == model->spots->len) {
        return model_first(model, sector);
    }
    spot = &g_array_index(model->spots, CrashSpot, i);
    return spot->page == sector / CRASH_SECTORS ?
           spot->base[sector % CRASH_SECTORS] : model_first(model, sector);
}

char *model_check_read(CrashModel *model, uint64_t sector, uint64_t count,
                       uint32_t start, uint32_t end, const uint8_t *buf)
{
    g_autofree uint32_t *before = g_new0(uint32_t, count);
    g_autofree uint32_t *zero = g_new0(uint32_t, count);

    for (guint i = 0; i < model->ops->len; i++) {
        GuestOp *op = model_op(model, i);
        uint64_t from = MAX(op->sector, sector);
        uint64_t to = MIN(op->sector + op->count, sector + count);

        if (op->kind == GUEST_FLUSH || op->start > end) {
            continue;
        }
        for (uint64_t at = from; at < to; at++) {
            if (op->end < start && op->ret == 0 &&
                op->kind != GUEST_DISCARD) {
                before[at - sector] = MAX(before[at - sector], op->start);
            }
            if (op->kind != GUEST_WRITE) {
                zero[at - sector] = MAX(zero[at - sector], op->end);
            }
        }
    }
    for (uint64_t i = 0; i < count; i++) {
        uint64_t place;
        uint32_t id = sector_decode(buf + i * CRASH_SECTOR, &place);
        uint32_t base = model_base(model, sector + i);
        bool good;

        if (base_is(base, id) && !before[i] && (!id || place == sector + i)) {
            continue;
        }
        if (!id) {
            good = zero[i] && zero[i] >= before[i];
        } else if (id == CRASH_NEVER || id < model->first_id ||
                   id - model->first_id >= model->ops->len ||
                   place != sector + i) {
            good = false;
        } else {
            GuestOp *op = model_op(model, id - model->first_id);

            good = op->kind == GUEST_WRITE && op_covers(op, sector + i) &&
                   op->start <= end && op->end >= before[i];
        }
        if (!good) {
            return g_strdup_printf("the guest reads write %d in sector %"
                                   PRIu64 ", at the stamps %u to %u",
                                   (int)id, sector + i, start, end);
        }
    }
    return NULL;
}

/* Whether @sector may hold @id by request @index or one of those after it. */
static bool is_there(CrashModel *model, guint index, uint64_t sector,
                     uint32_t id)
{
    for (guint i = index; i < model->ops->len; i++) {
        GuestOp *op = model_op(model, i);

        if (op_covers(op, sector) &&
            id == (op->kind == GUEST_WRITE ? model->first_id + i : 0)) {
            return true;
        }
    }
    return false;
}

void model_restart(CrashModel *model, uint64_t size, const uint8_t *buf)
{
    uint32_t since = 0;

    for (guint i = 0; i < model->ops->len; i++) {
        GuestOp *op = model_op(model, i);

        if (op->kind == GUEST_FLUSH && op->ret == 0) {
            since = MAX(since, op->start);
        }
    }
    for (guint i = 0; i < model->ops->len; i++) {
        GuestOp *op = model_op(model, i);
        uint64_t end = MIN(op->sector + op->count, size / CRASH_SECTOR);

        if ((op->kind != GUEST_WRITE && op->kind != GUEST_ZERO) || op->fua ||
            op->end < since) {
            continue;
        }
        for (uint64_t at = op->sector; at < end && op->ret == 0; at++) {
            uint64_t place;
            uint32_t id = sector_decode(buf + at * CRASH_SECTOR, &place);

            if (!is_there(model, i, at, id)) {
                op->ret = -ECANCELED;
            }
        }
    }
}

/* -- After a power cut -- */

guint model_spot(const CrashModel *model, uint64_t page)
{
    guint low = 0, high = model->spots->len;

    while (low < high) {
        guint mid = low + (high - low) / 2;

        if (g_array_index(model->spots, CrashSpot, mid).page < page) {
            low = mid + 1;
        } else {
            high = mid;
        }
    }
    return low;
}

static int compare_spots(const void *a, const void *b)
{
    const CrashSpot *x = a, *y = b;

    return x->page < y->page ? -1 : x->page > y->page;
}

/*
 * A resize touches all that is behind it, which may be much: not all is looked
 * at.  Returns how many pages behind page @page of it the next one is.
 */
static uint64_t resize_step(uint64_t page)
{
    return page < RESIZE_PAGES ? 1 : RESIZE_STEP - page % RESIZE_STEP;
}

void model_settle(CrashModel *model)
{
    g_autoptr(GHashTable) known = g_hash_table_new(NULL, NULL);

    for (guint i = 0; i < model->spots->len; i++) {
        uint64_t page = g_array_index(model->spots, CrashSpot, i).page;

        g_hash_table_add(known, (void *)(uintptr_t)page);
    }
    for (guint i = 0; i < model->ops->len; i++) {
        GuestOp *op = model_op(model, i);
        uint64_t from = op->sector / CRASH_SECTORS;
        uint64_t to = DIV_ROUND_UP(op->sector + op->count, CRASH_SECTORS);

        if (op->kind == GUEST_FLUSH ||
            (op->kind != GUEST_WRITE && !model->shape->parent_size)) {
            continue;
        }
        for (uint64_t page = from; page < to;
             page += op->resize ? resize_step(page - from) : 1) {
            CrashSpot spot = { .page = page };

            for (int k = 0; k < CRASH_SECTORS; k++) {
                spot.base[k] = model_first(model, page * CRASH_SECTORS + k);
            }
            if (g_hash_table_add(known, (void *)(uintptr_t)page)) {
                g_array_append_val(model->spots, spot);
            }
        }
    }
    g_array_sort(model->spots, compare_spots);
    g_array_set_size(model->settled, model->ops->len);
}

/* Note that @op is stable, or with @zero, that it may have zeroed. */
static void spots_note(CrashModel *model, const GuestOp *op, bool zero)
{
    uint64_t end = op->sector + op->count;

    for (guint i = model_spot(model, op->sector / CRASH_SECTORS);
         i < model->spots->len; i++) {
        CrashSpot *spot = &g_array_index(model->spots, CrashSpot, i);
        uint64_t first = spot->page * CRASH_SECTORS;

        if (first >= end) {
            break;
        }
        for (int k = 0; k < CRASH_SECTORS; k++) {
            if (!op_covers(op, first + k)) {
                continue;
            }
            if (zero) {
                spot->zero[k] = MAX(spot->zero[k], op->end);
            } else {
                spot->stable[k] = MAX(spot->stable[k], op->start);
            }
        }
    }
}

void model_advance(CrashModel *model, uint32_t now)
{
    for (guint i = 0; i < model->ops->len; i++) {
        GuestOp *op = model_op(model, i);

        if (op->kind == GUEST_FLUSH && op->ret == 0 && op->end <= now) {
            model->flush_start = MAX(model->flush_start, op->start);
        }
    }
    for (guint i = 0; i < model->ops->len; i++) {
        GuestOp *op = model_op(model, i);
        bool *settled = &g_array_index(model->settled, bool, i);

        if (op->kind == GUEST_FLUSH || op->start > now) {
            continue;
        }
        if (i >= model->started && op->kind != GUEST_WRITE) {
            spots_note(model, op, true);
        }
        if (!*settled && op->ret == 0 && op->kind != GUEST_DISCARD &&
            !op->exempt &&
            (op->end < model->flush_start || (op->fua && op->end <= now))) {
            *settled = true;
            spots_note(model, op, false);
        }
    }
    while (model->started < model->ops->len &&
           model_op(model, model->started)->start <= now) {
        model->started++;
    }
    model->now = now;
    if (model->tracks) {
        tracks_advance(model, now);
    }
}

bool model_allows(const CrashModel *model, const CrashSpot *spot, unsigned i,
                  uint32_t id)
{
    uint64_t sector = spot->page * CRASH_SECTORS + i;
    const GuestOp *op;

    if (base_is(spot->base[i], id) && !spot->stable[i]) {
        return true;
    }
    if (!id) {
        return spot->zero[i] && spot->zero[i] >= spot->stable[i];
    }
    if (id < model->first_id || id - model->first_id >= model->ops->len) {
        return false;
    }
    op = &g_array_index(model->ops, GuestOp, id - model->first_id);
    return op->kind == GUEST_WRITE && op_covers(op, sector) &&
           op->start <= model->now && op->end >= spot->stable[i];
}

/*
 * VHDX crash test: what must hold after a power cut
 *
 * Of an image as a cut leaves it:
 *
 *   - the reader finds nothing wrong in it, and every sector that was ever
 *     written holds what the model allows; every other one is zero, or in a
 *     child the parent's
 *   - the driver opens it without writing to it, its check finds no error, and
 *     it reads every sector as the reader does
 *
 * Some images are then opened for writing and used further: that is a run of
 * its own, which the power can be cut of again, and begins with the recovery.
 * A run that comes to its end leaves an image without a log.
 *
 * Of an image with damage, in which a cut has ended a repair:
 *
 *   - each damage is there or mended, and all else is as above; it opens, and
 *     the only blocks that the driver fails to read have damaged entries
 *   - it can be repaired, and then nothing is wrong with it but what was not
 *     to be mended
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "vhdx-crash-dirty.h"

/* Violations that are told in words, for one workload. */
#define MAX_REPORTS     10

#define READ_PAGES      256

char *text(const char *format, ...)
{
    va_list ap;
    char *str;

    va_start(ap, format);
    str = g_strdup_vprintf(format, ap);
    va_end(ap);
    return str;
}

/* -- One image -- */

/* A page of which a bit for each sector says whether it is in the file. */
static CrashPage *page_compose(const CrashPage *file, const CrashPage *parent,
                               uint8_t bits)
{
    CrashPage *page = image_page_new(NULL);

    for (int k = 0; k < CRASH_SECTORS; k++) {
        const CrashPage *source = bits & 1 << k ? file : parent;

        if (source) {
            memcpy(page->data + k * CRASH_SECTOR,
                   source->data + k * CRASH_SECTOR, CRASH_SECTOR);
        }
    }
    return page;
}

/* What the parent has in page @page of the guest, with a reference */
static CrashPage *page_of_parent(const CrashReader *r, const CrashModel *model,
                                 uint64_t page)
{
    CrashPage *found = NULL;

    if (r->parent) {
        return page * CRASH_PAGE < r->parent->disk_size ?
               guest_page(r->parent, model, page) : NULL;
    }
    if (r->has_parent) {
        found = parent_page(model->shape->parent_size, page);
    }
    if (found) {
        found->refs++;
    }
    return found;
}

CrashPage *guest_page(const CrashReader *r, const CrashModel *model,
                      uint64_t page)
{
    uint64_t at = page * CRASH_PAGE;
    const CrashBlock *block = reader_find(r, at / r->block_size);
    CrashPage *file = !block->place ? NULL :
                      reader_page(r, block->place + at % r->block_size);
    CrashPage *parent, *found;
    uint8_t bits = block->parents ? 0 : UINT8_MAX;

    if (block->partial) {
        bits = reader_bits(r, page);
    }
    if (bits == UINT8_MAX) {
        if (file) {
            file->refs++;
        }
        return file;
    }
    parent = page_of_parent(r, model, page);
    if (!bits || (!file && !parent)) {
        return parent;
    }
    found = page_compose(file, parent, bits);
    image_page_unref(parent);
    return found;
}

/* Check @spot, which holds @page; as check_spots() */
static char *check_spot(const CrashModel *model, const CrashSpot *spot,
                        CrashPage *page, uint32_t *seen)
{
    for (int k = 0; k < CRASH_SECTORS; k++) {
        uint64_t sector = spot->page * CRASH_SECTORS + k, place = sector;
        uint32_t id = page ? model_decode(page, k, &place) : 0;

        if (!id) {
            place = sector;
        }
        if (id == CRASH_NEVER || place != sector ||
            !model_allows(model, spot, k, id)) {
            return text("sector %" PRIu64 " holds write %d of sector %"
                        PRIu64 "; it held %d; the latest stable one "
                        "started at stamp %u", sector, (int)id, place,
                        (int)spot->base[k], spot->stable[k]);
        }
        seen[k] = id;
    }
    return NULL;
}

char *check_spots(const CrashReader *r, const CrashModel *model,
                  uint32_t *seen)
{
    for (guint i = 0; i < model->spots->len; i++) {
        CrashSpot *spot = &g_array_index(model->spots, CrashSpot, i);
        CrashPage *page;
        char *why;

        if (spot->page * CRASH_PAGE >= r->disk_size) {
            /* When the disk gets longer again this has to be zero. */
            memset(seen + i * CRASH_SECTORS, 0, sizeof(*seen) * CRASH_SECTORS);
            continue;
        }
        page = guest_page(r, model, spot->page);
        why = check_spot(model, spot, page, seen + i * CRASH_SECTORS);
        image_page_unref(page);
        if (why) {
            return why;
        }
    }
    return NULL;
}

/* -- What was judged before -- */

static void verdict_free(void *opaque)
{
    CrashVerdict *verdict = opaque;

    dirty_unref(verdict->dirty_bitmaps);
    g_free(verdict);
}

GHashTable *verdicts_new(void)
{
    return g_hash_table_new_full(NULL, NULL, NULL, verdict_free);
}

CrashVerdict *verdict_find(CrashContext *ctx, uint64_t hash)
{
    CrashVerdict *found = g_hash_table_lookup(ctx->verdicts,
                                              (void *)(uintptr_t)hash);

    ctx->totals.again += !!found;
    return found;
}

void verdict_add(CrashContext *ctx, uint64_t hash, const CrashReader *r,
                 const CrashModel *model, const uint32_t *seen)
{
    size_t bytes = model->spots->len * CRASH_SECTORS * sizeof(*seen);
    CrashVerdict *verdict = g_malloc(sizeof(*verdict) + bytes);

    verdict->disk_size = r->disk_size;
    verdict->has_parent = r->has_parent;
    verdict->dirty_bitmaps = dirty_ref(r->dirty_bitmaps);
    memcpy(verdict->seen, seen, bytes);
    g_hash_table_insert(ctx->verdicts, (void *)(uintptr_t)hash, verdict);
}

char *check_seen(const CrashVerdict *verdict, const CrashModel *model,
                 uint32_t *seen)
{
    memcpy(seen, verdict->seen,
           model->spots->len * CRASH_SECTORS * sizeof(*seen));
    for (guint i = 0; i < model->spots->len; i++) {
        CrashSpot *spot = &g_array_index(model->spots, CrashSpot, i);

        for (int k = 0; k < CRASH_SECTORS; k++) {
            uint32_t id = seen[i * CRASH_SECTORS + k];

            if (spot->page * CRASH_PAGE < verdict->disk_size &&
                !model_allows(model, spot, k, id)) {
                return text("sector %" PRIu64 " holds write %d; it held %d; "
                            "the latest stable one started at stamp %u",
                            spot->page * CRASH_SECTORS + k, (int)id,
                            (int)spot->base[k], spot->stable[k]);
            }
        }
    }
    return tracks_check(model, verdict->dirty_bitmaps, seen);
}

/* -- What nobody has written -- */

/* Check page @index of the file, which holds @page, unless it is a spot's. */
static char *check_unwritten(const CrashReader *r, const CrashModel *model,
                             uint64_t index, CrashPage *page)
{
    uint64_t at = index * CRASH_PAGE;
    uint64_t owner = reader_owner(r, at);
    uint64_t guest, sector;
    guint spot;

    if (!owner || !page) {
        return NULL;
    }
    guest = (owner - 1) * r->block_size + at - reader_block(r, owner - 1);
    spot = model_spot(model, guest / CRASH_PAGE);
    if (guest >= r->disk_size ||
        (spot < model->spots->len &&
         g_array_index(model->spots, CrashSpot, spot).page ==
         guest / CRASH_PAGE)) {
        return NULL;
    }
    for (int k = 0; k < CRASH_SECTORS; k++) {
        uint32_t id = model_decode(page, k, &sector);

        if (id) {
            return text("sector %" PRIu64 ", never written to, holds write %d "
                        "of sector %" PRIu64, guest / CRASH_SECTOR + k,
                        (int)id, sector);
        }
    }
    return NULL;
}

/*
 * How many of @count pages from @first on the parent has, and no request has
 * ever touched.  Where it has none all reads as zeros, whoever has that.
 */
static uint64_t untouched(const CrashModel *model, uint64_t first,
                          uint64_t count)
{
    uint64_t end = MIN(model->resized_from / CRASH_SECTORS, first + count);
    guint next = model_spot(model, first);
    uint64_t found = 0;

    for (uint64_t page = first; page < end; page++) {
        bool spot = next < model->spots->len &&
                    g_array_index(model->spots, CrashSpot, next).page == page;

        next += spot;
        found += !spot && parent_has(model->shape->parent_size, page);
    }
    return found;
}

/*
 * Check that in a child @block, which says something of its own, does so only
 * of what requests have touched, or the image had from the start.
 */
static char *check_child_block(const CrashReader *r, const CrashModel *model,
                               uint64_t block)
{
    uint64_t at = block * r->block_size;
    uint64_t bytes = MIN(r->block_size, r->disk_size - at);
    guint next = model_spot(model, at / CRASH_PAGE);

    if (block % 512 == 0 && block / 512 < model->shape->complete) {
        return NULL;
    }
    if (!g_hash_table_contains(r->partial, (void *)(uintptr_t)block)) {
        if (at >= model->shape->zero_from && at < model->shape->zero_end) {
            return NULL;
        }
        return untouched(model, at / CRASH_PAGE, bytes / CRASH_PAGE) ?
               text("block %" PRIu64 " has what nobody has written", block) :
               NULL;
    }
    for (uint64_t done = 0; done < bytes; done += CRASH_PAGE) {
        uint64_t page = (at + done) / CRASH_PAGE;
        bool spot = next < model->spots->len &&
                    g_array_index(model->spots, CrashSpot, next).page == page;

        next += spot;
        if (!spot && page < model->resized_from / CRASH_SECTORS &&
            reader_bits(r, page)) {
            return text("page %" PRIu64 " is not the parent's, but has never "
                        "been written to", page);
        }
    }
    return NULL;
}

/*
 * No bit behind the last block that the disk has ever had is set; one of each
 * page is looked at.  Those of a block that the disk has lost stay as they are,
 * and mean nothing.
 */
static char *check_bitmap_ends(const CrashReader *r, const CrashModel *model)
{
    uint64_t bits = MiB * 8, step = CRASH_PAGE * 8;
    uint64_t end = r->disk_size / r->sector_size;
    uint64_t most = ROUND_UP(MAX(r->disk_size, model->resized_to),
                             r->block_size) / r->sector_size;

    for (uint64_t chunk = 0; chunk <= (end - 1) / bits; chunk++) {
        for (uint64_t n = chunk * bits; n < (chunk + 1) * bits; n += step) {
            if (n >= most && reader_bits(r, n * r->sector_size / CRASH_PAGE)) {
                return text("there is a bit for sector %" PRIu64 " of a disk "
                            "that has %" PRIu64 " and never had more than "
                            "%" PRIu64, n, end, most);
            }
        }
    }
    return NULL;
}

/* In bitmaps that the driver has made, nobody has set bits but the driver. */
static char *check_bitmaps(const CrashReader *r, const CrashModel *model)
{
    uint64_t pages = r->disk_size / CRASH_PAGE;
    uint64_t next = 0;

    for (guint i = 0; !model->shape->stale_bits && i <= model->spots->len;
         i++) {
        uint64_t spot = i == model->spots->len ? pages :
                        g_array_index(model->spots, CrashSpot, i).page;

        /* Some behind each spot do. */
        for (uint64_t page = next; page < MIN(spot, next + 64); page++) {
            if (reader_bits(r, page)) {
                return text("there are bits for page %" PRIu64 ", which has "
                            "never been written to", page);
            }
        }
        next = spot + 1;
    }
    return model->shape->stale_bits ? NULL : check_bitmap_ends(r, model);
}

static char *check_child_rest(const CrashReader *r, const CrashModel *model)
{
    GHashTable *tables[] = { r->blocks, r->zeros };
    GHashTableIter iter;
    void *key;
    char *why = check_bitmaps(r, model);

    for (int i = 0; i < ARRAY_SIZE(tables); i++) {
        g_hash_table_iter_init(&iter, tables[i]);
        while (!why && g_hash_table_iter_next(&iter, &key, NULL)) {
            why = check_child_block(r, model, (uintptr_t)key);
        }
    }
    return why;
}

/* Check that present blocks hold nothing else. */
static char *check_rest(const CrashReader *r, const CrashModel *model)
{
    CrashImageIter pages;
    GHashTableIter iter;
    CrashPage *page;
    char *why = NULL;
    void *key;

    if (r->has_parent) {
        return check_child_rest(r, model);
    }
    if (r->img->garbage) {
        /* What is not there is not zero. */
        g_hash_table_iter_init(&iter, r->blocks);
        while (!why && g_hash_table_iter_next(&iter, &key, NULL)) {
            uint64_t place = reader_block(r, (uintptr_t)key);

            for (uint64_t at = place; !why && at < place + r->block_size;
                 at += CRASH_PAGE) {
                why = check_unwritten(r, model, at / CRASH_PAGE,
                                      reader_page(r, at));
            }
        }
        return why;
    }
    image_iter_init(&pages, r->img);
    while (!why && (page = image_iter_next(&pages))) {
        why = check_unwritten(r, model, pages.index, page);
    }
    return why;
}

/* Whether a block in which one of these pages is has a bad entry. */
static bool is_damaged(const CrashReader *r, uint64_t first, uint64_t count)
{
    uint64_t last = (first + count - 1) * CRASH_PAGE / r->block_size;

    for (uint64_t block = first * CRASH_PAGE / r->block_size; block <= last;
         block++) {
        if (g_hash_table_contains(r->damaged, (void *)(uintptr_t)block)) {
            return true;
        }
    }
    return false;
}

/* Whether the block with this page has an entry that says it is all zeros. */
static bool is_lost(const CrashReader *r, uint64_t page)
{
    uint64_t block = page * CRASH_PAGE / r->block_size;
    CrashDamage *d = g_hash_table_lookup(r->damaged, (void *)(uintptr_t)block);

    return d && d->zero;
}

/* Compare @count pages from @first as the driver and the reader read them. */
static char *check_read(BlockBackend *blk, const CrashReader *r,
                        const CrashModel *model, uint64_t first,
                        uint64_t count)
{
    static uint8_t buf[READ_PAGES * CRASH_PAGE];
    uint64_t bytes = MIN(count * CRASH_PAGE,
                         r->disk_size - first * CRASH_PAGE);
    int ret = blk_pread(blk, first * CRASH_PAGE, bytes, buf, 0);

    if (ret == -EIO && is_damaged(r, first, count)) {
        return NULL;
    }
    if (ret < 0) {
        return text("the driver can't read page %" PRIu64 ": %s", first,
                    strerror(-ret));
    }
    for (uint64_t i = 0; i * CRASH_PAGE < bytes; i++) {
        CrashPage *page = is_lost(r, first + i) ? NULL :
                          guest_page(r, model, first + i);
        uint64_t n = MIN(CRASH_PAGE, bytes - i * CRASH_PAGE);
        bool same = page ? !memcmp(page->data, buf + i * CRASH_PAGE, n) :
                    buffer_is_zero(buf + i * CRASH_PAGE, n);

        image_page_unref(page);
        if (!same) {
            return text("driver and reader differ in page %" PRIu64,
                        first + i);
        }
    }
    return NULL;
}

char *check_reads(BlockBackend *blk, const CrashReader *r,
                  const CrashModel *model, CrashRng *rng)
{
    guint i = 0;
    char *why = NULL;

    while (i < model->spots->len && !why) {
        uint64_t first = g_array_index(model->spots, CrashSpot, i).page;
        uint64_t count = 0;

        if (first * CRASH_PAGE >= r->disk_size) {
            break;
        }
        while (i < model->spots->len && count < READ_PAGES &&
               g_array_index(model->spots, CrashSpot, i).page ==
               first + count) {
            i++;
            count++;
        }
        why = check_read(blk, r, model, first, count);
    }
    for (i = 0; i < 4 && !why; i++) {
        uint64_t first = rng_below(rng, r->disk_size / CRASH_PAGE);
        uint64_t rest = r->disk_size / CRASH_PAGE - first;

        why = check_read(blk, r, model, first,
                         r->has_parent ? MIN(rest, 8) : 1);
    }
    return why;
}

/* What the driver makes of the file. */
static char *check_driver(CrashContext *ctx, const CrashImage *img,
                          const CrashReader *r, const CrashModel *model,
                          CrashRng *rng)
{
    /* Nothing writes to it, which is checked as well. */
    CrashDisk *disk = disk_new((CrashImage *)img, &ctx->workload->node, 0);
    Error *err = NULL;
    BdrvCheckResult result = { 0 };
    BlockBackend *blk;
    char *why = NULL;
    int ret, expected = r->dirty + !r->header_valid[0] + !r->header_valid[1];

    if (ctx->damage) {
        /* In a header that is valid something may be wrong as well. */
        expected = r->dirty + 2 + r->bad;
    }
    disk->instant = true;
    if (r->has_parent) {
        disk_add_parent(disk, model->shape->parent_size, parent_page);
    }
    blk = guest_open(ctx->workload, 0, &err);
    if (!blk) {
        why = text("does not open: %s", error_get_pretty(err));
        error_free(err);
    } else {
        ret = bdrv_check(blk_bs(blk), &result, 0);
        if (ret < 0 || result.check_errors || result.corruptions > expected) {
            why = text("check returns %d, with %d errors and %d corruptions",
                       ret, result.check_errors, result.corruptions);
        } else {
            why = check_reads(blk, r, model, rng) ?:
                  dirty_check_driver(blk_bs(blk), r->dirty_bitmaps);
        }
        blk_unref(blk);
    }
    if (!why && disk->changes) {
        why = text("a read-only image is written to");
    }
    disk->view = NULL;
    disk_free(disk);
    return why;
}

/* Whether the file may not be an image at all, as it is being made. */
static bool check_unborn(CrashContext *ctx, const CrashImage *img)
{
    uint8_t id[8];

    image_read(img, 0, sizeof(id), id);
    return ctx->workload->create && memcmp(id, "vhdxfile", 8);
}

/* Whether the headers are as closing leaves them. */
static bool headers_closed(CrashContext *ctx, const CrashReader *r)
{
    if (!r->header_valid[0] || !r->header_valid[1]) {
        return false;
    }
    /* A repair with nothing to mend leaves headers of which one was updated. */
    return ctx->damage ? !r->dirty :
           !r->log_named[0] && !r->log_named[1] && r->copies_agree;
}

/*
 * Check an image; @closed if it must have no log.  With @again, it is one of
 * the states for which there are verdicts: one that was right, and has been
 * seen at another time, is only compared with what the model allows now.
 * Returns NULL or what is wrong.
 */
static char *check_image(CrashContext *ctx, const CrashImage *img,
                         const CrashModel *model, bool closed, uint32_t *seen,
                         CrashRng *rng, bool again)
{
    uint64_t hash = again ? image_hash(img) : 0;
    CrashVerdict *verdict = again ? verdict_find(ctx, hash) : NULL;
    CrashReader *r;
    char *why;

    ctx->totals.states++;
    if (verdict) {
        return model_allows_size(model, verdict->disk_size) ?
               check_seen(verdict, model, seen) :
               text("the disk has %" PRIu64 " bytes", verdict->disk_size);
    }
    if (check_unborn(ctx, img)) {
        return NULL;
    }
    r = reader_new(img, ctx->damage, &why);
    if (!r) {
        return why;
    }
    if (!model_allows_size(model, r->disk_size)) {
        why = text("the disk has %" PRIu64 " bytes", r->disk_size);
    } else if (r->behind && !ctx->workload->max_mib) {
        why = text("the BAT goes on behind the last block");
    } else if (ctx->workload->node.fixed_size && r->last > img->size) {
        why = text("LastFileOffset %" PRIu64 " is more than the node has",
                   r->last);
    } else if (r->has_parent != !!ctx->shape.parent_size ||
               r->block_size != ctx->shape.block_size ||
               r->sector_size != ctx->shape.sector_size) {
        why = text("metadata has changed");
    } else if (ctx->workload->mix.subformat &&
               r->physical_size != (r->disk_id == 0x11 ? 512 : 4096)) {
        /* guest_subformat() changes both at once. */
        why = text("one of two metadata items has changed");
    }
    if (!why && closed && !headers_closed(ctx, r)) {
        why = text("the image was closed, but its headers are not in order");
    }
    if (!why && closed && r->left) {
        why = text("after the repair, %u fields are not mended", r->left);
    }
    why = why ?: check_spots(r, model, seen);
    why = why ?: check_rest(r, model);
    why = why ?: tracks_check(model, r->dirty_bitmaps, seen);
    why = why ?: check_driver(ctx, img, r, model, rng);
    if (!why && again) {
        verdict_add(ctx, hash, r, model, seen);
    }
    reader_free(r);
    return why;
}

/* -- All that cuts can leave of a run -- */

bool enough(CrashContext *ctx)
{
    return ctx->stop && ctx->totals.violations;
}

void violation(CrashContext *ctx, const CrashImage *img, const char *path,
               const char *why)
{
    ctx->totals.violations++;
    if (ctx->totals.violations <= MAX_REPORTS || ctx->verbose) {
        printf("# VIOLATION in %s, seed %" PRIu64 "%s: %s\n",
               ctx->workload->name, ctx->seed, path, why);
        fflush(stdout);
    }
    if (img && ctx->dump) {
        image_dump(img, ctx->dump);
        ctx->dump = NULL;
    }
}

int compare_stamps(const void *a, const void *b)
{
    uint32_t x = *(uint32_t *)a, y = *(uint32_t *)b;

    return x < y ? -1 : x > y;
}

/* Just before the end of the first flush from stamp @at on: much can be lost */
static uint32_t point_flush(const CrashRun *run, uint32_t at)
{
    for (guint i = 0; i < run->ops->len; i++) {
        CrashOp *op = g_ptr_array_index(run->ops, i);

        if (op->kind == OP_FLUSH && op->start >= at) {
            return MIN(op->end - 1, run->end);
        }
    }
    return run->end;
}

/* After the end of the first guest flush from stamp @at on: more is stable. */
static uint32_t point_guest(const CrashRun *run, uint32_t at)
{
    for (guint i = 0; i < run->model->ops->len; i++) {
        GuestOp *op = &g_array_index(run->model->ops, GuestOp, i);

        if (op->kind == GUEST_FLUSH && op->start >= at) {
            return MIN(op->end, run->end);
        }
    }
    return run->end;
}

static bool is_flush(const CrashRun *run, const CrashOp *op)
{
    return op->kind == OP_FLUSH;
}

/* Whether @op has put something in place, of what the log had. */
static bool is_placing(const CrashRun *run, const CrashOp *op)
{
    return op->kind == OP_WRITE && op->offset >= 2 * MiB &&
           op->offset < run->payload;
}

static bool is_logging(const CrashRun *run, const CrashOp *op)
{
    return op->kind == OP_WRITE && op->offset >= MiB && op->offset < 2 * MiB;
}

/* The start of an operation of a kind, or a stamp at random. */
static uint32_t point_of_kind(const CrashRun *run,
                              bool (*is_kind)(const CrashRun *run,
                                              const CrashOp *op),
                              CrashRng *rng)
{
    uint32_t at = rng_below(rng, run->end + 1);
    guint count = 0;

    for (guint i = 0; i < run->ops->len; i++) {
        CrashOp *op = g_ptr_array_index(run->ops, i);

        if (is_kind(run, op) && !rng_below(rng, ++count)) {
            at = op->start;
        }
    }
    return at;
}

/*
 * A stamp to cut the power at.  Each flush has the same chance, be it long or
 * short, and those that make log entries stable, or what was put in place, have
 * more.
 */
static uint32_t point_random(const CrashRun *run, CrashRng *rng)
{
    uint32_t at = rng_below(rng, run->end + 1);
    unsigned way = rng_below(rng, 100);

    if (run->model->tracks && rng_chance(rng, 50)) {
        at = tracks_point(run->model->tracks, at, rng);
        return rng_chance(rng, 50) ? at : point_flush(run, at);
    }
    if (way < 30) {
        return at;
    }
    if (way < 50) {
        return point_guest(run, at);
    }
    return point_flush(run, point_of_kind(run, way < 65 ? is_flush :
                                          way < 80 ? is_logging : is_placing,
                                          rng));
}

GArray *points_choose(const CrashRun *run, unsigned most, CrashRng *rng)
{
    GArray *points = g_array_new(false, false, sizeof(uint32_t));
    bool all = run->end < most;

    for (uint32_t i = 0; i < (all ? run->end : most); i++) {
        uint32_t at = all ? i : point_random(run, rng);

        g_array_append_val(points, at);
    }
    g_array_append_val(points, run->end);
    g_array_sort(points, compare_stamps);
    return points;
}

/* Repair what a cut has left of a repair.  Returns NULL or what is wrong. */
static char *check_repair(CrashContext *ctx, const CrashImage *img,
                          const CrashModel *model, uint32_t *seen,
                          CrashRng *rng)
{
    CrashRun *run = repair_run(ctx->workload, &ctx->shape, img, ctx->damage,
                               model, seen, true, rng_next(rng));
    char *why = run->wrong->len ?
                g_strdup(g_ptr_array_index(run->wrong, 0)) :
                check_image(ctx, run->last, model, true, seen, rng, false);

    if (why) {
        char *more = text("then repaired: %s", why);

        g_free(why);
        why = more;
    }
    guest_run_free(run);
    return why;
}

static void check_run(CrashContext *ctx, CrashRun *run, unsigned depth,
                      const char *path, CrashRng *rng);

/* Open what a cut has left, go on with it, and check that run as well. */
static void check_further(CrashContext *ctx, const CrashImage *img,
                          const CrashModel *model, const uint32_t *seen,
                          unsigned depth, const char *path, CrashRng *rng)
{
    const CrashWorkload *w = ctx->workload;
    CrashRun *run = w->damage ?
        repair_run(w, &ctx->shape, img, ctx->damage, model, seen, false,
                   rng_next(rng)) :
        guest_run(w, &ctx->shape, img, model, seen, !w->go_on, rng_next(rng));

    check_run(ctx, run, depth + 1, path, rng);
    guest_run_free(run);
}

/* Check the states that a cut at one point can leave. */
static void check_point(CrashContext *ctx, CrashRun *run, CrashCursor *cur,
                        unsigned states, unsigned depth, const char *path,
                        uint32_t *seen, CrashRng *rng)
{
    const CrashWorkload *w = ctx->workload;
    unsigned count = 2 + states;

    ctx->totals.points++;
    for (unsigned i = 0; i < count && !enough(ctx); i++) {
        unsigned pending;
        CrashImage *img = cursor_cut(cur, MIN(i, CUT_RANDOM), rng, &pending);
        g_autofree char *here = text("%s, stamp %u cut %u", path, cur->now, i);
        char *why = check_image(ctx, img, run->model, false, seen, rng, true);

        if (!why && ctx->damage) {
            why = check_repair(ctx, img, run->model, seen, rng);
        }
        if (why) {
            violation(ctx, img, here, why);
            g_free(why);
        } else if (depth < w->generations && rng_chance(rng, w->recover)) {
            check_further(ctx, img, run->model, seen, depth, here, rng);
        }
        image_free(img);
        if (!pending) {
            break;
        }
        /* There are no more ways to lose a single operation. */
        count = pending == 1 ? MIN(count, 4) : count;
    }
}

static void check_run(CrashContext *ctx, CrashRun *run, unsigned depth,
                      const char *path, CrashRng *rng)
{
    const CrashWorkload *w = ctx->workload;
    static const unsigned fewer[] = { 1, 6, 15 };
    unsigned scale = w->go_on ? 1 + depth : fewer[MIN(depth, 2)];
    g_autofree uint32_t *seen = g_new(uint32_t, run->model->spots->len *
                                      CRASH_SECTORS + 1);
    g_autoptr(GHashTable) verdicts = verdicts_new();
    GHashTable *outer = ctx->verdicts;
    g_autoptr(GArray) points = NULL;
    CrashCursor *cur;

    ctx->verdicts = verdicts;
    for (guint i = 0; i < run->wrong->len; i++) {
        g_autofree char *here = text("%s, run of depth %u", path, depth);

        violation(ctx, run->last, here, g_ptr_array_index(run->wrong, i));
    }

    points = points_choose(run, MAX(w->points / scale, 3), rng);
    cur = cursor_new(run->base, run->ops, run->payload);
    for (guint i = 0; i < points->len && !enough(ctx); i++) {
        uint32_t at = g_array_index(points, uint32_t, i);

        cursor_advance(cur, at);
        model_advance(run->model, at);
        check_point(ctx, run, cur, MAX(w->states / (depth + 1), 1), depth,
                    path, seen, rng);
    }
    cursor_free(cur);
    ctx->verdicts = outer;

    if (run->closed && !w->create && !enough(ctx)) {
        g_autofree char *here = text("%s, closed", path);
        char *why = check_image(ctx, run->last, run->model, true, seen, rng,
                                false);

        if (why) {
            violation(ctx, run->last, here, why);
            g_free(why);
        }
    }
}

/* Damage the image that the guests of @use have left, and check its repair. */
static void check_damage(CrashContext *ctx, CrashRun *use, CrashRng *rng)
{
    g_autofree uint32_t *seen = g_new(uint32_t, use->model->spots->len *
                                      CRASH_SECTORS + 1);
    CrashImage *img;
    CrashReader *r;
    CrashRun *run;
    char *why;

    model_advance(use->model, use->end);
    why = use->wrong->len ? g_strdup(g_ptr_array_index(use->wrong, 0)) :
          check_image(ctx, use->last, use->model, true, seen, rng, false);
    if (why) {
        violation(ctx, use->last, ", before it is damaged", why);
        g_free(why);
        return;
    }
    img = image_copy(use->last);
    r = reader_new(use->last, NULL, &why);
    ctx->damage = damage_image(ctx->workload, r, img, rng);
    reader_free(r);
    run = repair_run(ctx->workload, &ctx->shape, img, ctx->damage, use->model,
                     seen, false, rng_next(rng));
    check_run(ctx, run, 0, "", rng);
    g_clear_pointer(&ctx->damage, g_array_unref);
    guest_run_free(run);
    image_free(img);
}

void check_seed(CrashContext *ctx)
{
    CrashRng rng = { crash_mix(ctx->seed * 0x2545f4914f6cdd1dULL + 1) };
    CrashRun *made, *run;

    ctx->totals.seeds++;
    if (ctx->workload->merge) {
        chain_check_seed(ctx, &rng);
        return;
    }
    made = guest_create(ctx->workload, &ctx->shape, &rng);
    if (ctx->workload->create || made->wrong->len) {
        check_run(ctx, made, 0, "", &rng);
    } else {
        run = guest_run(ctx->workload, &ctx->shape, made->last, NULL, NULL,
                        false, rng_next(&rng));
        if (ctx->workload->damage) {
            check_damage(ctx, run, &rng);
        } else {
            check_run(ctx, run, 0, "", &rng);
        }
        guest_run_free(run);
    }
    guest_run_free(made);
}

/*
 * VHDX crash test: what must hold of a chain after a power cut
 *
 * The cut leaves something of each file, independently.  The chain is what the
 * locators say, from the image on that the guest uses at that time.
 *
 *   - each image is right by itself, and one of the two linkages in each child
 *     is the DataWriteGuid of its parent
 *   - the guest's disk, read through the chain, is as the model allows; the
 *     driver opens it, writes to nothing, and reads the same
 *   - another child of a parent reads as it did at first, or does not match
 *     its parent any more.  The driver refuses it then
 *   - the same holds for an overlay that was merged into an image which the
 *     guest goes on to use: it is as it was then, or refused
 *   - an image that gets its first parent has it or not, as it was by then, and
 *     reads the same; nothing that it had before means something else
 *   - the chain can be used and merged once more; that is not cut again
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "vhdx-crash-dirty.h"

static const uint8_t nil[16];

void files_free(CrashFiles *f)
{
    for (int i = 0; i <= CRASH_LEVELS; i++) {
        if (f->readers[i]) {
            reader_free(f->readers[i]);
        }
    }
}

char *files_read(CrashFiles *f)
{
    for (int i = 0; i <= CRASH_LEVELS; i++) {
        char *why;

        if (!f->images[i]) {
            continue;
        }
        f->readers[i] = reader_new(f->images[i], NULL, &why);
        if (!f->readers[i]) {
            char *more = text("image %d: %s", i, why);

            g_free(why);
            return more;
        }
    }
    return NULL;
}

static bool linkage_is(const CrashReader *child, const CrashReader *parent)
{
    for (int i = 0; i < 2; i++) {
        if (memcmp(child->linkage[i], nil, 16) &&
            !memcmp(child->linkage[i], parent->data_write, 16)) {
            return true;
        }
    }
    return false;
}

char *files_link(CrashFiles *f, int last)
{
    int up[CRASH_LEVELS + 1], level = last;

    f->count = 0;
    f->fit = true;
    for (;;) {
        CrashReader *r = f->readers[level];
        int below = -1;

        up[f->count++] = level;
        r->parent = NULL;
        if (!r->has_parent) {
            break;
        }
        if (sscanf(r->parent_name, "image%d.vhdx", &below) != 1 || below < 0 ||
            below >= CRASH_LEVELS || !f->readers[below] ||
            f->count > CRASH_LEVELS) {
            return text("the parent of image %d is '%s'", level,
                        r->parent_name);
        }
        f->fit &= linkage_is(r, f->readers[below]);
        r->parent = f->readers[below];
        level = below;
    }
    for (int i = 0; i < f->count; i++) {
        f->levels[i] = up[f->count - 1 - i];
    }
    return NULL;
}

/* -- A new chain -- */

/* All pages of the disk of image @last */
static GPtrArray *pages_read(CrashFiles *f, int last, const CrashModel *model)
{
    const CrashReader *r = f->readers[last];
    GPtrArray *pages = g_ptr_array_new();

    for (uint64_t i = 0; i * CRASH_PAGE < r->disk_size; i++) {
        g_ptr_array_add(pages, guest_page(r, model, i));
    }
    return pages;
}

void chain_check_made(CrashChain *chain, const CrashModel *made)
{
    CrashRun *run = chain->runs[chain->count - 1];
    g_autofree uint32_t *seen = g_new0(uint32_t, made->spots->len *
                                       CRASH_SECTORS + 1);
    int used = chain_used(chain, 0);
    CrashFiles f = { .fit = true };
    char *why;

    for (int i = 0; i < chain->count; i++) {
        f.images[i] = chain->runs[i]->base;
    }
    why = files_read(&f);
    why = why ?: files_link(&f, used);
    if (!why && (!f.fit || f.count != (chain->workload->merge == MERGE_ADOPT ?
                                       1 : used + 1))) {
        why = text("the new images are no chain");
    }
    why = why ?: check_spots(f.readers[used], made, seen);
    if (why) {
        g_ptr_array_add(run->wrong, why);
    }
    chain->model = model_new(made, seen, &chain->shape);
    for (int i = 0; !why && i < chain->count; i++) {
        if (!chain->siblings[i]) {
            continue;
        }
        f.images[CRASH_LEVELS] = chain->siblings[i];
        f.readers[CRASH_LEVELS] = reader_new(chain->siblings[i], NULL, &why);
        g_assert(!why);
        why = files_link(&f, CRASH_LEVELS);
        g_assert(!why && f.fit && f.levels[f.count - 2] == i);
        chain->contents[i] = pages_read(&f, CRASH_LEVELS, chain->model);
        g_clear_pointer(&f.readers[CRASH_LEVELS], reader_free);
    }
    files_free(&f);
}

/* -- What a cut has left -- */

/* Pages of @block of @one that no request has touched are zeros in @r. */
static char *check_block(const CrashReader *r, const CrashReader *one,
                         uint64_t block, const CrashModel *model)
{
    uint64_t pages = one->block_size / CRASH_PAGE;
    uint64_t end = MIN((block + 1) * pages, r->disk_size / CRASH_PAGE);
    guint spot = model_spot(model, block * pages);

    for (uint64_t i = block * pages; i < end; i++) {
        CrashPage *page;
        bool good;

        if (spot < model->spots->len &&
            g_array_index(model->spots, CrashSpot, spot).page == i) {
            spot++;
            continue;
        }
        page = guest_page(r, model, i);
        good = !page || buffer_is_zero(page->data, CRASH_PAGE);
        image_page_unref(page);
        if (!good) {
            return text("page %" PRIu64 ", never written to, is not zero", i);
        }
    }
    return NULL;
}

/* The same where @r or one of its parents has a block */
static char *check_untouched(const CrashReader *r, const CrashModel *model)
{
    for (const CrashReader *one = r; one; one = one->parent) {
        GHashTableIter iter;
        void *key;

        g_hash_table_iter_init(&iter, one->blocks);
        while (g_hash_table_iter_next(&iter, &key, NULL)) {
            char *why = check_block(r, one, (uintptr_t)key, model);

            if (why) {
                return why;
            }
        }
    }
    return NULL;
}

char *files_check_driver(CrashContext *ctx, const CrashFiles *f,
                         const CrashModel *model, CrashRng *rng)
{
    CrashDisk *disks[CRASH_LEVELS + 1];
    const CrashReader *r = f->readers[f->levels[f->count - 1]];
    Error *err = NULL;
    BlockBackend *blk;
    char *why = NULL;

    for (int i = 0; i < f->count; i++) {
        /* Nothing writes to it, which is checked as well. */
        disks[i] = chain_disk((CrashImage *)f->images[f->levels[i]],
                              &ctx->workload->node, 0, f->levels[i], NULL);
        disks[i]->instant = true;
    }
    blk = chain_open(f->levels, f->count, 0, &err);
    if (!blk && f->fit) {
        why = text("does not open: %s", error_get_pretty(err));
    } else if (!blk && !strstr(error_get_pretty(err), "does not match")) {
        why = text("is refused by: %s", error_get_pretty(err));
    } else if (blk && !f->fit) {
        why = text("opens, but does not match its parent");
    }
    error_free(err);
    for (int i = 0; blk && !why && i < f->count; i++) {
        BdrvCheckResult result = { 0 };
        const CrashReader *one = f->readers[f->levels[i]];
        uint64_t foreign = one->img->foreign ? one->odd + one->behind : 0;
        int ret = bdrv_check(chain_node(f->levels[i]), &result, 0);

        if (ret < 0 || result.check_errors ||
            result.corruptions > one->dirty + !one->header_valid[0] +
                                 !one->header_valid[1] + foreign) {
            why = text("check of image %d returns %d, with %d errors and %d "
                       "corruptions", f->levels[i], ret, result.check_errors,
                       result.corruptions);
        }
    }
    if (blk && !why) {
        why = check_reads(blk, r, model, rng) ?:
              dirty_check_driver(blk_bs(blk), r->dirty_bitmaps);
    }
    blk_unref(blk);
    for (int i = 0; i < f->count; i++) {
        if (!why && disks[i]->changes) {
            why = text("a read-only image is written to");
        }
        disks[i]->view = NULL;
        disk_free(disks[i]);
    }
    return why;
}

/* Check the other child of image @level. */
static char *check_sibling(CrashContext *ctx, const CrashChain *chain,
                           CrashFiles *f, int level, CrashRng *rng)
{
    GPtrArray *pages = chain->contents[level];
    char *why;

    f->images[CRASH_LEVELS] = chain->siblings[level];
    f->readers[CRASH_LEVELS] = reader_new(chain->siblings[level], NULL, &why);
    why = files_link(f, CRASH_LEVELS);
    for (guint i = 0; !why && f->fit && i < pages->len; i++) {
        CrashPage *now = guest_page(f->readers[CRASH_LEVELS], chain->model, i);
        CrashPage *then = g_ptr_array_index(pages, i);

        if (now != then &&
            (!now ? !buffer_is_zero(then->data, CRASH_PAGE) :
             !then ? !buffer_is_zero(now->data, CRASH_PAGE) :
             !!memcmp(now->data, then->data, CRASH_PAGE))) {
            why = text("it goes with its parent, but page %u is another one",
                       i);
        }
        image_page_unref(now);
    }
    if (!why && rng_chance(rng, 20)) {
        why = files_check_driver(ctx, f, chain->model, rng);
    }
    g_clear_pointer(&f->readers[CRASH_LEVELS], reader_free);
    f->images[CRASH_LEVELS] = NULL;
    if (why) {
        char *more = text("another child of image %d: %s", level, why);

        g_free(why);
        return more;
    }
    return NULL;
}

/* Check the overlay that the guest has left at the pivot. */
static char *check_stale(CrashContext *ctx, const CrashChain *chain,
                         CrashFiles *f, CrashRng *rng)
{
    g_autofree uint32_t *seen = g_new0(uint32_t, chain->stale->spots->len *
                                       CRASH_SECTORS + 1);
    int last = chain->count - 1;
    char *why = files_link(f, last), *more;

    if (!why && f->fit) {
        why = check_spots(f->readers[last], chain->stale, seen);
    }
    if (!why && rng_chance(rng, 20)) {
        why = files_check_driver(ctx, f, chain->model, rng);
    }
    if (!why) {
        return NULL;
    }
    more = text("the overlay that was merged: %s", why);
    g_free(why);
    return more;
}

/*
 * Find out what goes with the image that the guest uses at the stamp @now.
 * Returns the number of that, or of its parent where it has nothing of its own
 * and need not go with it yet.
 */
static int files_link_used(CrashFiles *f, const CrashChain *chain, uint32_t now,
                           char **why)
{
    int used = chain_used(chain, now);
    CrashReader *r = f->readers[used];

    *why = files_link(f, used);
    if (!*why && !f->fit && chain->workload->merge == MERGE_SNAPSHOT &&
        now < chain->linked && !g_hash_table_size(r->blocks) &&
        !g_hash_table_size(r->zeros)) {
        used = 0;
        *why = files_link(f, used);
    }
    return used;
}

/* Whether the last image has a parent at the stamp @now, or none, as it must */
static char *check_turns(const CrashChain *chain, bool has_parent,
                         uint32_t now)
{
    bool allowed[] = { true, false };

    if (chain->workload->merge != MERGE_ADOPT) {
        return NULL;
    }

    for (guint i = 0; i < chain->turns->len; i++) {
        CrashTurn *turn = &g_array_index(chain->turns, CrashTurn, i);

        if (turn->start <= now) {
            allowed[turn->has_parent] = true;
        }
        if (turn->end <= now) {
            allowed[!turn->has_parent] = false;
        }
    }
    return allowed[has_parent] ? NULL :
           text("the image has %s parent", has_parent ? "a" : "no");
}

/* What tells @images from others, and from the same when all has changed */
static uint64_t chain_hash(const CrashChain *chain, CrashImage **images,
                           uint32_t now)
{
    uint64_t hash = (chain->pivot && now >= chain->pivot) +
                    (now >= chain->linked) * 2;

    for (int i = 0; i < chain->count; i++) {
        hash = crash_mix(hash + image_hash(images[i]));
    }
    return hash;
}

/* Check @images, as of the stamp @now; @closed if they must have no log. */
static char *check_images(CrashContext *ctx, const CrashChain *chain,
                          CrashImage **images, uint32_t now, bool closed,
                          uint32_t *seen, CrashRng *rng)
{
    uint64_t hash = chain_hash(chain, images, now);
    CrashVerdict *verdict = closed ? NULL : verdict_find(ctx, hash);
    CrashFiles f = { .fit = true };
    int used = 0;
    char *why;

    ctx->totals.states++;
    if (verdict) {
        why = check_turns(chain, verdict->has_parent, now);
        return why ?: check_seen(verdict, chain->model, seen);
    }
    for (int i = 0; i < chain->count; i++) {
        f.images[i] = images[i];
    }
    why = files_read(&f);
    if (!why) {
        used = files_link_used(&f, chain, now, &why);
    }
    if (!why && !f.fit) {
        why = text("the images do not go together");
    }
    for (int i = 0; !why && closed && i < f.count; i++) {
        const CrashReader *r = f.readers[f.levels[i]];

        if (!r->header_valid[0] || !r->header_valid[1] || r->log_named[0] ||
            r->log_named[1] || !r->copies_agree) {
            why = text("image %d was closed, but its headers are not in order",
                       f.levels[i]);
        }
    }
    if (!why && used == chain->count - 1 &&
        f.readers[used]->disk_size != chain->shape.disk_size) {
        why = text("the disk has %" PRIu64 " bytes",
                   f.readers[used]->disk_size);
    }
    why = why ?: check_spots(f.readers[used], chain->model, seen);
    why = why ?: check_turns(chain, f.readers[used]->has_parent, now);
    if (!why && chain->workload->merge == MERGE_ADOPT &&
        f.readers[used]->has_parent && f.readers[used]->behind) {
        why = text("the BAT of a child goes on behind the last block");
    }
    if (!why && (!ctx->workload->spread ||
                 chain->workload->merge == MERGE_ADOPT)) {
        why = check_untouched(f.readers[used], chain->model);
    }
    why = why ?: files_check_driver(ctx, &f, chain->model, rng);
    for (int i = 0; !why && i < chain->count; i++) {
        if (chain->contents[i]) {
            why = check_sibling(ctx, chain, &f, i, rng);
        }
    }
    if (!why && chain->stale && now >= chain->pivot) {
        why = check_stale(ctx, chain, &f, rng);
    }
    if (!why) {
        verdict_add(ctx, hash, f.readers[used], chain->model, seen);
    }
    files_free(&f);
    return why;
}

/* -- Going on -- */

/*
 * Use what a cut has left of a chain, as it is: the last image is merged into
 * its parent, or gets what it has once more.
 */
static char *further_use(const CrashFiles *f, CrashRng *rng)
{
    const CrashReader *r = f->readers[f->levels[f->count - 1]];
    /* A commit would write so many zeros. */
    bool much = g_hash_table_size(r->zeros) * r->block_size > GiB;
    Error *err = NULL;
    BlockBackend *blk = chain_open(f->levels, f->count, BDRV_O_RDWR |
                                   BDRV_O_RESIZE | BDRV_O_UNMAP, &err);
    uint8_t buf[CRASH_PAGE];
    char *why = NULL;
    int ret = 0;

    if (!blk) {
        why = text("does not open: %s", error_get_pretty(err));
        error_free(err);
        return why;
    }
    if (f->count > 1 && !much && rng_chance(rng, 60)) {
        ret = bdrv_commit(blk_bs(blk));
    } else {
        ret = blk_pread(blk, 0, CRASH_PAGE, buf, 0);
        if (ret >= 0) {
            ret = blk_pwrite(blk, 0, CRASH_PAGE, buf, 0);
        }
    }
    if (ret >= 0) {
        ret = blk_flush(blk);
    }
    if (ret < 0) {
        why = text("can't be used: %s", strerror(-ret));
    }
    blk_unref(blk);
    return why;
}

static char *check_further(CrashContext *ctx, const CrashChain *chain,
                           CrashImage **images, uint32_t now, uint32_t *seen,
                           CrashRng *rng)
{
    CrashImage *used[CRASH_LEVELS];
    CrashDisk *disks[CRASH_LEVELS];
    CrashFiles f = { .fit = true };
    char *why, *more;

    for (int i = 0; i < chain->count; i++) {
        f.images[i] = images[i];
        disks[i] = chain_disk(image_copy(images[i]), &ctx->workload->node,
                              rng_next(rng), i, NULL);
        disks[i]->instant = true;
    }
    why = files_read(&f);
    if (!why) {
        files_link_used(&f, chain, now, &why);
    }
    why = why ?: further_use(&f, rng);
    files_free(&f);
    for (int i = 0; i < chain->count; i++) {
        used[i] = image_copy(disks[i]->view);
        disk_free(disks[i]);
    }
    why = why ?: check_images(ctx, chain, used, now, false, seen, rng);
    for (int i = 0; i < chain->count; i++) {
        image_free(used[i]);
    }
    if (!why) {
        return NULL;
    }
    more = text("then used: %s", why);
    g_free(why);
    return more;
}

/* -- All that cuts can leave -- */

static void check_point(CrashContext *ctx, CrashChain *chain,
                        CrashCursor **cursors, uint32_t *seen, CrashRng *rng)
{
    unsigned states = 4 + ctx->workload->states;
    uint32_t now = cursors[0]->now;

    ctx->totals.points++;
    for (unsigned n = 0; n < states && !enough(ctx); n++) {
        g_autofree char *path = text(", stamp %u cut %u", now, n);
        CrashImage *images[CRASH_LEVELS];
        unsigned all = 0;
        char *why;

        for (int i = 0; i < chain->count; i++) {
            unsigned pending;
            CrashCut cut = n >= 4 ? rng_below(rng, 5) :
                           n < 2 ? n : (i + n) % 2;

            images[i] = cursor_cut(cursors[i], MIN(cut, CUT_RANDOM), rng,
                                   &pending);
            all += pending;
        }
        why = check_images(ctx, chain, images, now, false, seen, rng);
        if (!why && rng_chance(rng, ctx->workload->recover)) {
            why = check_further(ctx, chain, images, now, seen, rng);
        }
        if (why) {
            violation(ctx, images[chain->count - 1], path, why);
            g_free(why);
        }
        for (int i = 0; i < chain->count; i++) {
            image_free(images[i]);
        }
        if (!all) {
            break;
        }
    }
}

/* Just before a flush ends, or has begun, while the chain is changed */
static uint32_t point_of_change(CrashChain *chain, CrashRng *rng)
{
    uint64_t count = chain->change_end - chain->change_start + 1;
    uint32_t at = chain->change_start + rng_below(rng, count);
    unsigned found = 0;

    if (rng_chance(rng, 30)) {
        return at;
    }
    for (int i = 0; i < chain->count; i++) {
        for (guint k = 0; k < chain->runs[i]->ops->len; k++) {
            CrashOp *op = g_ptr_array_index(chain->runs[i]->ops, k);

            if (op->kind == OP_FLUSH && op->start >= chain->change_start &&
                op->end <= chain->change_end && !rng_below(rng, ++found)) {
                at = rng_chance(rng, 70) ? op->end - 1 : op->start;
            }
        }
    }
    return at;
}

/* Stamps to cut the power at */
static GArray *points_of_chain(CrashContext *ctx, CrashChain *chain,
                               CrashRng *rng)
{
    GArray *points = g_array_new(false, false, sizeof(uint32_t));
    unsigned half = ctx->workload->points / 2;

    for (unsigned i = 0; i < half && chain->change_end; i++) {
        uint32_t at = point_of_change(chain, rng);

        g_array_append_val(points, at);
    }

    for (int i = 0; i < chain->count; i++) {
        g_autoptr(GArray) some = points_choose(chain->runs[i],
                                               half / chain->count, rng);

        g_array_append_vals(points, some->data, some->len);
    }
    g_array_sort(points, compare_stamps);
    return points;
}

void chain_check_seed(CrashContext *ctx, CrashRng *rng)
{
    CrashChain *chain = chain_run(ctx->workload, rng);
    g_autofree uint32_t *seen = g_new(uint32_t, chain->model->spots->len *
                                      CRASH_SECTORS + 1);
    CrashRun *top = chain->runs[chain->count - 1];
    g_autoptr(GArray) points = points_of_chain(ctx, chain, rng);
    g_autoptr(GHashTable) verdicts = verdicts_new();
    CrashCursor *cursors[CRASH_LEVELS];

    ctx->verdicts = verdicts;
    for (guint i = 0; i < top->wrong->len; i++) {
        violation(ctx, top->last, ", run", g_ptr_array_index(top->wrong, i));
    }
    for (int i = 0; i < chain->count; i++) {
        cursors[i] = cursor_new(chain->runs[i]->base, chain->runs[i]->ops,
                                chain->payload[i]);
    }
    for (guint i = 0; i < points->len && !enough(ctx); i++) {
        uint32_t at = g_array_index(points, uint32_t, i);

        for (int k = 0; k < chain->count; k++) {
            cursor_advance(cursors[k], at);
        }
        model_advance(chain->model, at);
        check_point(ctx, chain, cursors, seen, rng);
    }
    for (int i = 0; i < chain->count; i++) {
        cursor_free(cursors[i]);
    }
    if (chain->closed && !enough(ctx)) {
        CrashImage *images[CRASH_LEVELS] = { 0 };
        char *why;

        for (int i = 0; i < chain->count; i++) {
            images[i] = chain->runs[i]->last;
        }
        why = check_images(ctx, chain, images, chain->end, true, seen, rng);
        if (why) {
            violation(ctx, top->last, ", closed", why);
            g_free(why);
        }
    }
    ctx->verdicts = NULL;
    chain_free(chain);
}

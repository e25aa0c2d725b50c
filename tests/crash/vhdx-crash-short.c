/*
 * VHDX crash test: short histories
 *
 * All sequences of a few actions, one after the other, on a small disk, and of
 * each all that cuts can leave: see vhdx-crash-short-check.c.  Nothing is left
 * to chance, neither what is done nor in which order the disk does it.  What is
 * left out is what another history shows as well:
 *
 *   - the two whole blocks are alike, and in order of their use, unless the
 *     disk gets shorter, which takes a part of the second one
 *   - the next part of a block is a part like any other, unless the one before
 *     it has been written
 *   - what does nothing: a flush, a close or a kill where nothing has been
 *     done, a size that the disk has, a commit without a parent, a compaction
 *     or a commit twice
 *   - a flush after a kill, which QEMU's block layer does not pass on before
 *     something is written to the file
 *   - of an image with dirty bitmaps, what others show: which block it is, and
 *     of parts more than one write; chains, as the bitmaps of parents are not
 *     judged; and a kill, which is a cut that loses nothing: what is used on
 *     after one shows the rest
 *
 * Histories are extended: only what the last action and the closing after it
 * add is checked, as all before it is the same in the history without it.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/main-loop.h"
#include "qemu/option.h"
#include "block/dirty-bitmap.h"
#include "vhdx-crash-dirty.h"
#include "vhdx-test-request.h"

#define BLOCK           MiB
#define SIZE            (5 * BLOCK / 2)
#define SIZE_LONG       (7 * BLOCK / 2)
#define SIZE_SHORT      (3 * BLOCK / 2)
#define BLOCKS          3       /* of which the last one is not whole */
#define BLOCKS_LONG     4       /* ... of the longer disk */
#define MAX_ACTIONS     8

const char *const short_kinds[] = {
    "dynamic", "fixed", "child", "bitmaps", NULL
};

typedef enum ActionKind {
    WRITE_PART,
    WRITE_NEXT,
    WRITE_BLOCK,
    ZERO_PART,
    ZERO_BLOCK,
    DISCARD_PART,
    DISCARD_BLOCK,
    FLUSH,
    GROW,
    SHRINK,
    COMPACT,
    REOPEN,
    SNAPSHOT,
    COMMIT,
    KILL,
    /* Of dirty bitmaps, which "bitmaps" alone has */
    ADD,
    CLEAR,
    TOGGLE,
    MERGE,
    REMOVE,
    ACTION_KINDS,
} ActionKind;

/* In a history, the number of the block follows those that have one. */
static const char *const action_names[] = {
    "part", "next", "write", "blank", "zero", "trim", "discard", "flush",
    "grow", "shrink", "compact", "reopen", "snapshot", "commit", "kill",
    "add", "clear", "toggle", "merge", "remove",
};

typedef struct Action {
    ActionKind kind;
    unsigned block;
} Action;

/* A kind of image, and what all histories of it begin with */
typedef struct Kind {
    CrashWorkload w;
    bool child;
    CrashImage *images[2];
    uint64_t payload[2];
    CrashShape shape;
    CrashModel *before;
    uint32_t *seen;
    CrashDirty *dirty;          /* "bitmaps": what the image has of them */
} Kind;

/* What is under way */
typedef struct Short {
    const CrashWorkload *w;
    ShortRun *run;
    CrashDisk *disks[CRASH_LEVELS];
    BlockBackend *blk;
    uint64_t size;              /* of the disk, bytes */
    bool killed;
    unsigned changes;           /* of the files, before it was killed */
    CrashRng rng;
} Short;

/* -- One action -- */

static uint32_t stamp(Short *s)
{
    return ++s->disks[0]->now;
}

static void fails(Short *s, const char *what, int ret, Error *err)
{
    if (!s->run->wrong) {
        s->run->wrong = text("%s fails: %s", what,
                             err ? error_get_pretty(err) : strerror(-ret));
    }
    error_free(err);
}

/* From now on another image is used, or less is allowed. */
static void note_point(Short *s)
{
    g_array_append_val(s->run->points, s->disks[0]->now);
}

static void note_use(Short *s, bool linked)
{
    ShortUse use = {
        .now = stamp(s),
        .level = s->run->count - 1,
        .linked = linked,
    };

    g_array_append_val(s->run->uses, use);
    note_point(s);
}

static bool images_open(Short *s)
{
    static const int levels[] = { 0, 1, 2, 3, 4 };
    Error *err = NULL;

    QEMU_BUILD_BUG_ON(ARRAY_SIZE(levels) != CRASH_LEVELS);
    s->blk = chain_open(levels, s->run->count, BDRV_O_RDWR | BDRV_O_RESIZE |
                        BDRV_O_UNMAP, &err);
    if (!s->blk) {
        fails(s, "opening", 0, err);
        return false;
    }
    return true;
}

static unsigned changes(const Short *s)
{
    unsigned sum = 0;

    for (int i = 0; i < s->run->count; i++) {
        sum += s->disks[i]->changes;
    }
    return sum;
}

/*
 * Whether no file has been changed since a kill: QEMU's block layer then does
 * not pass a flush on.
 */
static bool is_idle(const Short *s)
{
    return s->killed && changes(s) == s->changes;
}

/* To close is to flush, if there is something to flush. */
static void images_close(Short *s)
{
    uint32_t start = stamp(s);
    unsigned index = model_begin(s->run->model, GUEST_FLUSH, 0, 0, start);

    blk_unref(s->blk);
    s->blk = NULL;
    model_end(s->run->model, index, stamp(s), is_idle(s) ? -ECANCELED : 0);
    tracks_note_all(s->run->model->tracks, EVENT_STORE, start,
                    s->disks[0]->now, 0);
    note_point(s);
}

static void image_add(Short *s, const CrashImage *img, uint64_t payload)
{
    int level = s->run->count++;
    CrashRun *run = run_new(s->w, image_copy(img));

    run->payload = payload;
    s->run->runs[level] = run;
    s->disks[level] = chain_disk(image_copy(img), &s->w->node, level + 1,
                                 level, s->disks[0]);
    s->disks[level]->in_order = true;
    s->disks[level]->payload = payload;
}

/* A new overlay is put upon the image in use. */
static void do_snapshot(Short *s)
{
    CrashWorkload w = *s->w;
    int level = s->run->count;
    BlockDriverState *base = blk_bs(s->blk), *overlay;
    CrashShape shape;
    CrashImage *img;
    Error *err = NULL;
    int ret;

    w.disk_kib = s->size / KiB;
    w.fixed = w.state_zero = false;
    img = chain_image_new(&w, &shape, s->disks[level - 1]->view, level - 1,
                          &s->rng);
    image_add(s, img, shape.payload);
    image_free(img);
    overlay = chain_overlay_open(level, &err);
    if (!overlay) {
        fails(s, "opening the overlay", 0, err);
        return;
    }
    ret = chain_set_parent(overlay, base, &err);
    if (ret < 0) {
        fails(s, "putting the overlay there", ret, err);
        return;
    }
    note_use(s, false);
    bdrv_ref(base);
    blk_remove_bs(s->blk);
    blk_insert_bs(s->blk, overlay, &error_abort);
    bdrv_unref(overlay);
    ret = bdrv_reopen_set_read_only(base, true, &err);
    if (ret < 0) {
        fails(s, "a reopen", ret, err);
    }
    bdrv_unref(base);
    note_use(s, true);
}

static void compact_status(BlockDriverState *bs, int64_t offset,
                           int64_t total_work_size, void *opaque)
{
}

static void do_compact(Short *s)
{
    BlockDriverState *bs = blk_bs(s->blk);
    QemuOpts *opts = qemu_opts_create(bs->drv->amend_opts, NULL, 0,
                                      &error_abort);
    uint32_t start = stamp(s);
    Error *err = NULL;
    int ret;

    qemu_opt_set(opts, "compact", "zeroes", &error_abort);
    ret = bs->drv->bdrv_amend_options(bs, opts, compact_status, NULL, false,
                                      &err);
    if (ret < 0) {
        fails(s, "compacting", ret, err);
    }
    qemu_opts_del(opts);
    tracks_note_all(s->run->model->tracks, EVENT_CHANGE, start, stamp(s), 0);
}

/*
 * As a job does it, which does not flush what it has written to the parent:
 * that is for the driver to do, before the image gets empty.
 */
static void do_commit(Short *s)
{
    BlockDriverState *top = blk_bs(s->blk);
    BlockDriverState *base = chain_node(s->run->count - 2);
    Error *err = NULL;
    BlockBackend *to;
    int ret = bdrv_reopen_set_read_only(base, false, &err);

    if (ret == 0) {
        to = chain_blk(base, BLK_PERM_CONSISTENT_READ | BLK_PERM_WRITE |
                             BLK_PERM_RESIZE);
        ret = chain_copy(top, base, s->blk, to, &err);
        ret = ret < 0 ? ret : blk_make_empty(s->blk, &err);
        blk_unref(to);
    }
    ret = ret < 0 ? ret : bdrv_reopen_set_read_only(base, true, &err);
    if (ret < 0) {
        fails(s, "a commit", ret, err);
    }
}

static void do_resize(Short *s, uint64_t size)
{
    Error *err = NULL;
    unsigned index = model_resize_begin(s->run->model, s->size, size,
                                        SIZE_LONG, stamp(s));
    int ret = blk_truncate(s->blk, size, true, PREALLOC_MODE_OFF, 0, &err);

    model_resize_end(s->run->model, index, stamp(s), ret);
    note_point(s);
    if (ret < 0) {
        fails(s, "resizing", ret, err);
        return;
    }
    s->size = size;
    s->run->resized = true;
    if (s->run->model->tracks) {
        /* QEMU's may have bits behind a disk's end, which show later. */
        s->run->model->tracks->rough = true;
    }
}

/*
 * The process ends where it is.  What it has written to the files stays, but
 * nobody has to flush that before the image is written to again; what it had in
 * memory is gone.
 */
static void do_kill(Short *s)
{
    g_autofree uint8_t *buf = g_malloc(s->size);
    int ret;

    for (int i = 0; i < s->run->count; i++) {
        s->disks[i]->dead = true;
    }
    blk_unref(s->blk);
    for (int i = 0; i < s->run->count; i++) {
        s->disks[i]->dead = false;
    }
    s->killed = true;
    s->changes = changes(s);
    if (!images_open(s)) {
        return;
    }
    ret = blk_pread(s->blk, 0, s->size, buf, 0);
    if (ret < 0) {
        fails(s, "a read", ret, NULL);
        return;
    }
    model_restart(s->run->model, s->size, buf);
}

/* A command for the bitmaps "a", which is new, "b", or "c", into "b" */
static void do_command(Short *s, ActionKind kind)
{
    CrashInUse u = {
        .bs = blk_bs(s->blk),
        .tracks = s->run->model->tracks,
        .now = &s->disks[0]->now,
        .disk_size = s->size,
    };
    BdrvDirtyBitmap *b = bdrv_find_dirty_bitmap(u.bs, "b");
    BdrvDirtyBitmap *c = bdrv_find_dirty_bitmap(u.bs, "c");
    Error *err = NULL;

    switch (kind) {
    case ADD:
        dirty_add(&u, "a", 16, &err);
        break;
    case CLEAR:
        dirty_clear(&u, b);
        break;
    case TOGGLE:
        dirty_toggle(&u, b, &err);
        break;
    case MERGE:
        dirty_merge(&u, b, c, &err);
        break;
    default:
        dirty_remove(&u, b, &err);
    }
    note_point(s);
    if (err) {
        fails(s, action_names[kind], 0, err);
    }
}

/* Write, zero or discard from @at to @end, in bytes, of the disk. */
static void do_request(Short *s, ActionKind kind, uint64_t at, uint64_t end)
{
    CrashModel *model = s->run->model;
    uint64_t sector = at / CRASH_SECTOR, count = (end - at) / CRASH_SECTOR;
    bool write = kind <= WRITE_BLOCK;
    unsigned index = model_begin(model, write ? GUEST_WRITE :
                                 kind <= ZERO_BLOCK ? GUEST_ZERO :
                                 GUEST_DISCARD, sector, count, stamp(s));
    int ret;

    if (write) {
        g_autofree uint8_t *buf = g_malloc(end - at);

        model_fill(model, index, sector, count, buf);
        ret = blk_pwrite(s->blk, at, end - at, buf, 0);
    } else if (kind <= ZERO_BLOCK) {
        ret = blk_pwrite_zeroes(s->blk, at, end - at, BDRV_REQ_MAY_UNMAP);
    } else {
        ret = discard_wait(s->blk, at, end - at);
    }
    model_end(model, index, stamp(s), ret);
    if (ret < 0) {
        fails(s, action_names[kind], ret, NULL);
    }
}

static void do_action(Short *s, Action a)
{
    uint64_t at = a.block * BLOCK, end = MIN(at + BLOCK, s->size);
    unsigned index;
    int ret;

    switch (a.kind) {
    case WRITE_PART:
        do_request(s, a.kind, at + 4 * KiB, at + 16 * KiB);
        break;
    case WRITE_NEXT:
        do_request(s, a.kind, at + 16 * KiB, at + 24 * KiB);
        break;
    case ZERO_PART:
        do_request(s, a.kind, at + 12 * KiB, at + 20 * KiB);
        break;
    case DISCARD_PART:
        do_request(s, a.kind, at + 8 * KiB, at + 64 * KiB);
        break;
    case WRITE_BLOCK:
    case ZERO_BLOCK:
    case DISCARD_BLOCK:
        do_request(s, a.kind, at, end);
        break;
    case FLUSH:
        index = model_begin(s->run->model, GUEST_FLUSH, 0, 0, stamp(s));
        ret = blk_flush(s->blk);
        model_end(s->run->model, index, stamp(s),
                  ret == 0 && is_idle(s) ? -ECANCELED : ret);
        note_point(s);
        if (ret < 0) {
            fails(s, "a flush", ret, NULL);
        }
        break;
    case GROW:
        do_resize(s, SIZE_LONG);
        break;
    case SHRINK:
        do_resize(s, SIZE_SHORT);
        break;
    case COMPACT:
        do_compact(s);
        break;
    case REOPEN:
        images_close(s);
        images_open(s);
        break;
    case SNAPSHOT:
        do_snapshot(s);
        break;
    case COMMIT:
        do_commit(s);
        break;
    case KILL:
        do_kill(s);
        break;
    default:
        do_command(s, a.kind);
    }
}

/* -- A history -- */

static bool has_block(ActionKind kind)
{
    return kind <= DISCARD_BLOCK;
}

static char *history_text(const Action *actions, unsigned count)
{
    GString *str = g_string_new(NULL);

    for (unsigned i = 0; i < count; i++) {
        g_string_append_printf(str, "%s%s", i ? " " : "",
                               action_names[actions[i].kind]);
        if (has_block(actions[i].kind)) {
            g_string_append_printf(str, "%u", actions[i].block);
        }
    }
    return g_string_free(str, false);
}

/* The actions that @words name; returns how many, or -1. */
static int history_parse(const char *words, Action *actions)
{
    g_auto(GStrv) list = g_strsplit(words, " ", -1);
    int count = 0;

    for (char **word = list; *word; word++) {
        size_t length = strcspn(*word, "0123456789");
        unsigned kind = 0;

        while (kind < ACTION_KINDS &&
               (strlen(action_names[kind]) != length ||
                strncmp(action_names[kind], *word, length))) {
            kind++;
        }
        if (kind == ACTION_KINDS || count == MAX_ACTIONS) {
            return -1;
        }
        actions[count++] = (Action) { kind, atoi(*word + length) };
    }
    return count;
}

/* What the guest reads is right. */
static void read_all(Short *s)
{
    g_autofree uint8_t *buf = g_malloc(s->size);
    uint32_t start = stamp(s);
    int ret = blk_pread(s->blk, 0, s->size, buf, 0);

    if (ret < 0) {
        fails(s, "a read", ret, NULL);
        return;
    }
    s->run->wrong = model_check_read(s->run->model, 0, s->size / CRASH_SECTOR,
                                     start, stamp(s), buf);
}

/* Begin a run; @before, @seen and @dirty say what the disk holds. */
static Short history_begin(const CrashWorkload *w, const CrashShape *shape,
                           const CrashModel *before, const uint32_t *seen,
                           const CrashDirty *dirty, uint64_t size, char *words)
{
    Short s = {
        .w = w,
        .run = g_new0(ShortRun, 1),
        .size = size,
        .rng = { 1 },
    };
    ShortRun *run = s.run;

    run->history = words;
    run->shape = *shape;
    run->uses = g_array_new(false, false, sizeof(ShortUse));
    run->points = g_array_new(false, false, sizeof(uint32_t));
    run->model = model_new(before, seen, &run->shape);
    run->model->first_size = size;
    if (w->bitmaps) {
        run->model->tracks = tracks_new(dirty, size, SIZE_LONG);
    }
    return s;
}

static void history_end(Short *s)
{
    ShortRun *run = s->run;

    if (s->blk) {
        images_close(s);
    }
    run->end = s->disks[0]->now;
    for (int i = run->count - 1; i >= 0; i--) {
        run_end(run->runs[i], s->disks[i]);
    }
    model_settle(run->model);
}

/* Whether bitmap @name is there and counts. */
static bool has_bitmap(Short *s, const char *name)
{
    BdrvDirtyBitmap *b = bdrv_find_dirty_bitmap(blk_bs(s->blk), name);

    return b && !bdrv_dirty_bitmap_inconsistent(b);
}

/* What is done first with what a cut has left, as far as it can be done */
static void further_act(Short *s, unsigned choice)
{
    static const Action actions[] = {
        { WRITE_PART, 1 }, { WRITE_BLOCK, 0 }, { ZERO_BLOCK, 0 },
        { DISCARD_PART, 1 }, { DISCARD_BLOCK, 0 }, { GROW }, { SHRINK },
        { REOPEN }, { CLEAR }, { TOGGLE }, { REMOVE },
    };
    Action a = actions[choice % ARRAY_SIZE(actions)];
    bool resizable = !s->w->bitmaps || (has_bitmap(s, "b") &&
                                        has_bitmap(s, "c"));
    bool fit = (a.kind != GROW || (s->size != SIZE_LONG && resizable)) &&
               (a.kind != SHRINK || (s->size != SIZE_SHORT && resizable)) &&
               (a.kind < ADD || has_bitmap(s, "b"));

    if (fit) {
        do_action(s, a);
    }
    /* A shorter disk may still have blocks behind its end, which are kept. */
    if (s->run->wrong && a.kind == GROW && s->run->resized &&
        strstr(s->run->wrong, "which would be lost")) {
        g_clear_pointer(&s->run->wrong, g_free);
    }
}

ShortRun *short_run_further(const CrashWorkload *w, const ShortRun *before,
                            const CrashFiles *f, const uint32_t *seen,
                            const char *words, unsigned choice)
{
    const CrashReader *top = f->readers[f->levels[f->count - 1]];
    Short s = history_begin(w, &before->shape, before->model, seen,
                            top->dirty_bitmaps, top->disk_size,
                            g_strdup(words));

    /* Parents need not have been written to. */
    s.run->killed = s.run->further = true;
    s.run->resized = before->resized;
    if (s.run->model->tracks) {
        s.run->model->tracks->rough = before->resized;
    }
    crash_seed_guids(3);
    for (int i = 0; i < f->count; i++) {
        image_add(&s, f->images[i], before->runs[i]->payload);
    }
    note_use(&s, true);
    if (images_open(&s)) {
        further_act(&s, choice);
    }
    if (!s.run->wrong) {
        do_action(&s, (Action) { WRITE_PART, 0 });
    }
    if (!s.run->wrong) {
        read_all(&s);
    }
    history_end(&s);
    return s.run;
}

static ShortRun *history_run(const Kind *kind, const Action *actions,
                             unsigned count)
{
    Short s = history_begin(&kind->w, &kind->shape, kind->before, kind->seen,
                            kind->dirty, SIZE, history_text(actions, count));
    ShortRun *run = s.run;

    crash_seed_guids(2);
    for (int i = 0; i <= kind->child; i++) {
        image_add(&s, kind->images[i], kind->payload[i]);
    }
    note_use(&s, true);
    if (images_open(&s)) {
        for (unsigned i = 0; i < count && !run->wrong; i++) {
            if (i == count - 1) {
                run->from = stamp(&s);
            }
            do_action(&s, actions[i]);
            run->killed |= actions[i].kind == KILL;
        }
        if (!run->wrong && count && actions[count - 1].kind == KILL) {
            /* Opening writes nothing: what recovers is the first write. */
            do_action(&s, (Action) { WRITE_PART, 0 });
        }
        if (!run->wrong) {
            read_all(&s);
        }
    }
    history_end(&s);
    return run;
}

void short_run_free(ShortRun *run)
{
    for (int i = 0; i < run->count; i++) {
        guest_run_free(run->runs[i]);
    }
    g_array_unref(run->uses);
    g_array_unref(run->points);
    model_free(run->model);
    g_free(run->wrong);
    g_free(run->history);
    g_free(run);
}

/* -- All histories -- */

typedef struct Walk {
    CrashContext *ctx;
    const ShortChoice *choice;
    const Kind *kind;
    ShortKnown *known;
    Action actions[MAX_ACTIONS];
    unsigned histories;
    unsigned unit;              /* what is shared out */
} Walk;

/* Whether @a, which all images have, shows something of dirty bitmaps, too. */
static bool is_for_bitmaps(const Action *a)
{
    return a->block == 0 && (a->kind == WRITE_PART || a->kind == WRITE_BLOCK ||
                             a->kind == ZERO_BLOCK ||
                             (a->kind >= DISCARD_BLOCK && a->kind <= REOPEN));
}

/* Whether the last of @count actions does something that is worth a look. */
static bool last_is_fit(const Walk *k, unsigned count)
{
    const Action *a = &k->actions[count - 1];
    ActionKind before = count > 1 ? a[-1].kind : REOPEN;
    uint64_t size = SIZE;
    int level = k->kind->child;
    bool part = false, added = false, removed = false;

    if (k->kind->w.bitmaps ? a->kind < ADD && !is_for_bitmaps(a) :
                             a->kind >= ADD) {
        return false;
    }
    for (unsigned i = 0; i < count - 1; i++) {
        ActionKind kind = k->actions[i].kind;

        added |= kind == ADD;
        removed |= kind == REMOVE;

        size = kind == GROW ? SIZE_LONG : kind == SHRINK ? SIZE_SHORT : size;
        level += kind == SNAPSHOT;
        part |= kind == WRITE_PART && k->actions[i].block == a->block;
    }
    switch (a->kind) {
    case FLUSH:
    case KILL:
        return before != REOPEN && before != KILL && before != a->kind;
    case REOPEN:
        return before != REOPEN;
    case GROW:
        return size != SIZE_LONG;
    case SHRINK:
        return size != SIZE_SHORT;
    case COMPACT:
        return before != COMPACT && (!k->kind->w.fixed || level);
    case SNAPSHOT:
        return level < CRASH_LEVELS - 1;
    case COMMIT:
        return level && before != COMMIT;
    case ADD:
        return !added;
    case CLEAR:
    case MERGE:
        return !removed && before != a->kind;
    case TOGGLE:
    case REMOVE:
        return !removed;
    default:
        return a->block * BLOCK < size && (a->kind != WRITE_NEXT || part);
    }
}

/* Whether it is not another one with the first two blocks exchanged. */
static bool is_needed(const Walk *k, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        if (k->actions[i].kind == SHRINK) {
            return true;
        }
    }
    for (unsigned i = 0; i < count; i++) {
        if (has_block(k->actions[i].kind) && k->actions[i].block < 2) {
            return k->actions[i].block == 0;
        }
    }
    return true;
}

static void walk_judge(Walk *k, unsigned count)
{
    ShortRun *run = history_run(k->kind, k->actions, count);

    k->histories++;
    short_check(k->ctx, run, k->known);
    short_run_free(run);
}

/* Go on from a history of @count actions. */
static void walk(Walk *k, unsigned count)
{
    const ShortChoice *c = k->choice;

    if (count < MAX(c->depth, 2)) {
        k->unit++;
    }
    if (is_needed(k, count) && k->unit % c->parts == c->part - 1) {
        walk_judge(k, count);
    }
    for (unsigned i = 0; i < ACTION_KINDS && count < c->depth; i++) {
        unsigned blocks = has_block(i) ? BLOCKS_LONG : 1;

        for (unsigned block = 0; block < blocks; block++) {
            k->actions[count] = (Action) { i, block };
            if (last_is_fit(k, count + 1) && !enough(k->ctx)) {
                walk(k, count + 1);
            }
        }
    }
}

/* -- Kinds of images -- */

/* Open the first image, alone, to change it. */
static BlockBackend *image_begin(Kind *kind, CrashDisk **disk)
{
    static const int levels[] = { 0 };

    *disk = chain_disk(image_copy(kind->images[0]), &kind->w.node, 1, 0, NULL);
    (*disk)->instant = true;
    return chain_open(levels, 1, BDRV_O_RDWR | BDRV_O_RESIZE, &error_abort);
}

/* Close it; it is what it has become. */
static void image_end(Kind *kind, CrashDisk *disk, BlockBackend *blk)
{
    blk_unref(blk);
    image_free(kind->images[0]);
    kind->images[0] = image_copy(disk->view);
    disk_free(disk);
}

/* Let the first image have something in each block from @block on. */
static void image_fill(Kind *kind, CrashModel *model, unsigned block)
{
    CrashDisk *disk;
    BlockBackend *blk = image_begin(kind, &disk);

    for (uint64_t at = block * BLOCK; at < SIZE; at += BLOCK) {
        uint64_t sector = at / CRASH_SECTOR;
        uint64_t count = 256 * KiB / CRASH_SECTOR;
        unsigned index = model_begin(model, GUEST_WRITE, sector, count,
                                     ++disk->now);
        g_autofree uint8_t *buf = g_malloc(count * CRASH_SECTOR);

        model_fill(model, index, sector, count, buf);
        if (blk_pwrite(blk, at, count * CRASH_SECTOR, buf, 0) < 0) {
            g_assert_not_reached();
        }
        model_end(model, index, ++disk->now, 0);
    }
    image_end(kind, disk, blk);
}

/* Let there be two bitmaps, of which one records, and each has something. */
static void bitmaps_make(Kind *kind)
{
    static const char *const names[] = { "b", "c" };
    CrashDisk *disk;
    BlockBackend *blk = image_begin(kind, &disk);

    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        BdrvDirtyBitmap *bitmap = bdrv_create_dirty_bitmap(
            blk_bs(blk), 64 * KiB, names[i], &error_abort);

        bdrv_dirty_bitmap_set_persistence(bitmap, true);
        bdrv_set_dirty_bitmap(bitmap, (i + 1) * BLOCK, 64 * KiB);
        if (i) {
            bdrv_disable_dirty_bitmap(bitmap);
        }
    }
    image_end(kind, disk, blk);
}

/* The whole disk is of interest, and what it may get. */
static void model_widen(CrashModel *model)
{
    for (uint64_t page = 0; page < SIZE_LONG / CRASH_PAGE; page++) {
        CrashSpot spot = { .page = page };

        g_array_append_val(model->spots, spot);
    }
    model_settle(model);
    model_advance(model, CRASH_NEVER - 1);
}

static void kind_make(Kind *kind, const char *name)
{
    CrashRng rng = { 1 };
    CrashFiles f = { .fit = true };
    char *why;

    kind->w = (CrashWorkload) {
        .name = name,
        .disk_kib = SIZE / KiB,
        .block_mib = { 1 },
        .only_512 = true,
        .state_zero = true,
        .fixed = !strcmp(name, "fixed"),
        .bitmaps = !strcmp(name, "bitmaps"),
    };
    kind->child = !strcmp(name, "child");
    crash_seed_guids(1);
    kind->images[0] = chain_image_new(&kind->w, &kind->shape, NULL, 0, &rng);
    kind->payload[0] = kind->shape.payload;
    kind->before = model_new(NULL, NULL, &kind->shape);
    if (kind->child) {
        image_fill(kind, kind->before, 0);
        /* A new child shows its parent. */
        kind->w.state_zero = false;
        kind->images[1] = chain_image_new(&kind->w, &kind->shape,
                                          kind->images[0], 0, &rng);
        kind->payload[1] = kind->shape.payload;
    }
    if (kind->w.bitmaps) {
        bitmaps_make(kind);
        /* It goes where the region was: to zero that takes many steps. */
        image_fill(kind, kind->before, BLOCKS - 1);
    }
    model_widen(kind->before);
    kind->seen = g_new0(uint32_t, kind->before->spots->len * CRASH_SECTORS);
    f.images[0] = kind->images[0];
    f.images[1] = kind->images[1];
    why = files_read(&f);
    why = why ?: files_link(&f, kind->child);
    why = why ?: check_spots(f.readers[kind->child], kind->before, kind->seen);
    g_assert(!why);
    kind->dirty = dirty_ref(f.readers[kind->child]->dirty_bitmaps);
    files_free(&f);
}

static void kind_clear(Kind *kind)
{
    image_free(kind->images[0]);
    image_free(kind->images[1]);
    model_free(kind->before);
    dirty_unref(kind->dirty);
    g_free(kind->seen);
}

bool short_run(CrashContext *ctx, const char *name, const ShortChoice *choice,
               int number)
{
    Kind kind = { .child = false };
    Walk k = {
        .ctx = ctx,
        .choice = choice,
        .kind = &kind,
        .known = short_known_new(),
    };
    int count;

    kind_make(&kind, name);
    ctx->workload = &kind.w;
    ctx->shape = kind.shape;
    if (!choice->history) {
        walk(&k, 0);
    } else {
        count = history_parse(choice->history, k.actions);
        for (int i = 0; i <= count; i++) {
            if (i && !last_is_fit(&k, i)) {
                count = -1;
            } else {
                walk_judge(&k, i);
            }
        }
        if (count < 0) {
            violation(ctx, NULL, "", "there is no such history");
        }
    }
    printf("%sok %d short-%s: %u histories, %u points, %u cuts, %u states, "
           "%u recovered, %u violations\n",
           ctx->totals.violations ? "not " : "", number, name, k.histories,
           ctx->totals.points, k.known->cuts,
           ctx->totals.states, k.known->recovered, ctx->totals.violations);
    fflush(stdout);
    short_known_free(k.known);
    kind_clear(&kind);
    return !ctx->totals.violations;
}

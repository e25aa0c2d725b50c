/*
 * VHDX crash test: the workloads
 *
 * Each puts another rule of crash safety to the test; what is random in them is
 * chosen anew for each seed.
 *
 * SPDX-License-Identifier: LGPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "vhdx-crash.h"

const CrashWorkload crash_workloads[] = {
    {
        .name = "mixed",
        .about = "writes of all sizes, zeroes, discards, reads, flushes",
        .disk_mib = 40, .block_mib = { 1, 2, 32 }, .state_zero = true,
        .guests = 6, .actions = 60,
        .mix = { .zero = 8, .discard = 8, .flush = 15, .read = 15 },
        .big = 3, .whole = 40,
        .points = 60, .states = 4, .recover = 6, .generations = 2,
    }, {
        .name = "one-block",
        .about = "many requests for one new block",
        .disk_mib = 8, .block_mib = { 1, 2, 8 },
        .guests = 16, .actions = 40,
        .mix = { .zero = 8, .discard = 6, .flush = 12, .read = 10 },
        .area_kib = 1024, .whole = 50,
        .points = 60, .states = 4, .recover = 4, .generations = 1,
    }, {
        .name = "reuse",
        .about = "blocks freed and used again, with requests under way",
        .disk_mib = 6, .block_mib = { 1 }, .state_zero = true,
        .guests = 8, .actions = 110, .only_512 = true,
        .mix = { .zero = 12, .discard = 28, .flush = 14, .read = 10 },
        .whole = 95,
        .points = 70, .states = 4, .recover = 4, .generations = 1,
    }, {
        .name = "flush-storm",
        .about = "flushes from all sides",
        .disk_mib = 24, .block_mib = { 1, 2 }, .state_zero = true,
        .guests = 8, .actions = 90,
        .mix = { .zero = 4, .discard = 8, .flush = 55 }, .whole = 80,
        .points = 70, .states = 4, .recover = 4, .generations = 1,
    }, {
        .name = "log-wrap",
        .about = "commits until the log has gone round some times",
        .disk_mib = 4 * 1024 * 1024, .block_mib = { 1 }, .only_512 = true,
        .guests = 3, .actions = 700, .one_page_each = true,
        .mix = { .flush = 50 },
        .points = 60, .states = 3, .recover = 3, .generations = 1,
    }, {
        .name = "log-full",
        .about = "commits of more pages than a quarter of the log takes",
        .disk_mib = 2 * 1024 * 1024, .block_mib = { 1 }, .only_512 = true,
        .guests = 8, .actions = 420, .one_page_each = true,
        .mix = { .flush = 2 },
        .points = 60, .states = 4, .recover = 3, .generations = 1,
    }, {
        .name = "small-cache",
        .about = "more pages in use than the cache holds",
        .disk_mib = 1024 * 1024, .block_mib = { 1 }, .only_512 = true,
        .guests = 6, .actions = 260, .one_page_each = true,
        .mix = { .flush = 8, .read = 20, .discard = 4 },
        .small_cache = true,
        .points = 40, .states = 3, .recover = 3, .generations = 1,
    }, {
        .name = "reopen",
        .about = "closed and opened again",
        .disk_mib = 16, .block_mib = { 1, 2 }, .state_zero = true,
        .guests = 4, .actions = 16, .sessions = 4,
        .mix = { .zero = 6, .discard = 20, .flush = 12 }, .whole = 90,
        .points = 80, .states = 4, .recover = 5, .generations = 2,
    }, {
        .name = "go-on",
        .about = "used on after a cut, and cut again",
        .disk_mib = 12, .block_mib = { 1, 2 },
        .guests = 5, .actions = 30,
        .mix = { .zero = 6, .discard = 15, .flush = 15, .read = 10 },
        .whole = 80, .big = 2,
        .points = 30, .states = 3, .recover = 6, .generations = 3,
        .go_on = true,
    }, {
        .name = "grow",
        .about = "new blocks only, few flushes: the file grows",
        .disk_mib = 2048, .block_mib = { 1, 2, 32 }, .state_zero = true,
        .guests = 4, .actions = 60,
        .mix = { .flush = 8 },
        .points = 60, .states = 5, .recover = 8, .generations = 2,
    }, {
        .name = "device",
        .about = "a node that can't grow and is full of old bytes",
        .disk_mib = 16, .block_mib = { 1 }, .room_mib = 24, .only_512 = true,
        .node = { .fixed_size = true },
        .guests = 5, .actions = 50,
        .mix = { .zero = 6, .discard = 18, .flush = 15, .read = 10 },
        .whole = 90,
        .points = 50, .states = 4, .recover = 5, .generations = 1,
    }, {
        .name = "no-truncate",
        .about = "a node that refuses all changes of its length",
        .disk_mib = 12, .block_mib = { 1 }, .room_mib = 18, .only_512 = true,
        .node = { .fixed_size = true, .no_truncate = true },
        .guests = 4, .actions = 30,
        .mix = { .zero = 6, .discard = 18, .flush = 15, .read = 10 },
        .whole = 90,
        .points = 30, .states = 3, .recover = 5, .generations = 1,
    }, {
        .name = "nbd",
        .about = "a node whose new space is not zero",
        .disk_mib = 16, .block_mib = { 1, 2 },
        .node = { .no_zero_growth = true, .no_write_zeroes = true },
        .guests = 4, .actions = 40,
        .mix = { .zero = 6, .discard = 15, .flush = 15, .read = 10 },
        .whole = 90,
        .points = 40, .states = 4, .recover = 5, .generations = 1,
    }, {
        .name = "fixed",
        .about = "a fixed image",
        .disk_mib = 6, .block_mib = { 1, 2 }, .fixed = true,
        .guests = 6, .actions = 50,
        .mix = { .zero = 10, .discard = 8, .flush = 15, .read = 10 },
        .whole = 30,
        .points = 40, .states = 3, .recover = 5, .generations = 1,
    }, {
        .name = "no-space",
        .about = "space ends, and comes back",
        .disk_mib = 40, .block_mib = { 1, 2 }, .state_zero = true,
        .guests = 5, .actions = 60, .full = true,
        .mix = { .zero = 6, .discard = 12, .flush = 20, .read = 5 },
        .whole = 80,
        .points = 50, .states = 4, .recover = 5, .generations = 1,
    }, {
        .name = "one-block-no-space",
        .about = "many requests for new blocks, of which some fail",
        .disk_mib = 8, .block_mib = { 1, 2 }, .full = true,
        .guests = 12, .actions = 60,
        .mix = { .zero = 12, .discard = 12, .flush = 15, .read = 10 },
        .area_kib = 2048, .whole = 60,
        .points = 40, .states = 4, .recover = 4, .generations = 1,
    }, {
        .name = "reuse-no-space",
        .about = "blocks freed and used again, commits of that fail",
        .disk_mib = 6, .block_mib = { 1 }, .full = true, .only_512 = true,
        .state_zero = true, .guests = 6, .actions = 80,
        .mix = { .zero = 8, .discard = 28, .flush = 18, .read = 10 },
        .whole = 95,
        .points = 50, .states = 4, .recover = 4, .generations = 1,
    }, {
        .name = "limit",
        .about = "a file that can't get long enough for all blocks",
        .disk_mib = 24, .block_mib = { 1 }, .only_512 = true,
        .limit_mib = 14,
        .guests = 5, .actions = 70,
        .mix = { .zero = 6, .discard = 30, .flush = 14, .read = 10 },
        .whole = 95,
        .points = 40, .states = 4, .recover = 4, .generations = 1,
    }, {
        .name = "failure",
        .about = "one operation fails",
        .disk_mib = 16, .block_mib = { 1 }, .state_zero = true,
        .guests = 5, .actions = 60, .fail = true, .only_512 = true,
        .mix = { .zero = 6, .discard = 20, .flush = 20, .read = 10 },
        .whole = 80,
        .points = 40, .states = 4, .recover = 5, .generations = 1,
    }, {
        .name = "create",
        .about = "an image that is being made",
        .disk_mib = 64, .block_mib = { 1, 2, 32 }, .create = true,
        .state_zero = true,
        .points = 60, .states = 6,
    }, {
        .name = "create-device",
        .about = "the same on a node full of old bytes",
        .disk_mib = 8, .block_mib = { 1, 2 }, .create = true,
        .fixed = true, .room_mib = 16,
        .node = { .fixed_size = true },
        .points = 60, .states = 6,
    }, {
        .name = NULL,
    }
};

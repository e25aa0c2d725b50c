/*
 * VHDX unit tests: the search for a parent, and what is read of its file
 *
 * Each test has folders of its own, made of what it names, below "top"; the
 * child is top/vm/c.vhdx.  Paths of a locator that begin with "TOP" get the
 * name of that folder, with '\'.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include <glib/gstdio.h>
#include <sys/un.h>
#include "block/vhdx/parent-file.h"
#include "block/vhdx/parent-name.h"
#include "block/vhdx/parent-path.h"
#include "vhdx-test-image.h"

#define CHILD   "vm/c.vhdx"

typedef struct Tree {
    char *top;
    char *cwd;
} Tree;

/* The paths of a locator */
typedef struct Paths {
    const char *relative;
    const char *volume;
    const char *absolute;
} Paths;

/* The name of @path in @tree, NULL for NULL */
static char *at(const Tree *tree, const char *path)
{
    return path ? g_strconcat(tree->top, "/", path, NULL) : NULL;
}

/* Make the file @path in @tree, and the folders to it. */
static void file(const Tree *tree, const char *path)
{
    g_autofree char *name = at(tree, path);
    g_autofree char *folder = g_path_get_dirname(name);

    g_assert_cmpint(g_mkdir_with_parents(folder, 0700), ==, 0);
    g_assert_true(g_file_set_contents(name, "x", 1, NULL));
}

static void folder(const Tree *tree, const char *path)
{
    g_autofree char *name = at(tree, path);

    g_assert_cmpint(g_mkdir_with_parents(name, 0700), ==, 0);
}

static void link_to(const Tree *tree, const char *path, const char *target)
{
    g_autofree char *name = at(tree, path);

    g_assert_cmpint(symlink(target, name), ==, 0);
}

static void delete(const Tree *tree, const char *path)
{
    g_autofree char *name = at(tree, path);

    g_assert_cmpint(g_remove(name), ==, 0);
}

/* Delete the folder @path with all in it; links are not followed. */
static void delete_all(const char *path)
{
    g_autoptr(GDir) dir = g_dir_open(path, 0, NULL);
    const char *name;

    while ((name = g_dir_read_name(dir))) {
        g_autofree char *inside = g_build_filename(path, name, NULL);
        GStatBuf st;

        g_assert_cmpint(g_lstat(inside, &st), ==, 0);
        if (S_ISDIR(st.st_mode)) {
            delete_all(inside);
        } else {
            g_assert_cmpint(g_remove(inside), ==, 0);
        }
    }
    g_assert_cmpint(g_rmdir(path), ==, 0);
}

static void setup(Tree *tree, const void *data)
{
    g_autofree char *top = g_dir_make_tmp("vhdx-parent-XXXXXX", NULL);

    tree->top = realpath(top, NULL);
    tree->cwd = g_get_current_dir();
    g_assert_nonnull(tree->top);
    file(tree, CHILD);
}

static void teardown(Tree *tree, const void *data)
{
    g_assert_cmpint(chdir(tree->cwd), ==, 0);
    delete_all(tree->top);
    g_free(tree->top);
    g_free(tree->cwd);
}

/* @path with "TOP" in front replaced */
static char *with_top(const Tree *tree, const char *path)
{
    g_autofree char *top = g_strdelimit(g_strdup(tree->top), "/", '\\');

    if (!path || !g_str_has_prefix(path, "TOP")) {
        return g_strdup(path);
    }
    return g_strconcat(top, path + strlen("TOP"), NULL);
}

static VHDXLocator *locator_new(const Tree *tree, Paths paths)
{
    VHDXLocator *loc = g_new0(VHDXLocator, 1);

    loc->relative_path = with_top(tree, paths.relative);
    loc->volume_path = with_top(tree, paths.volume);
    loc->absolute_win32_path = with_top(tree, paths.absolute);
    return loc;
}

/* The child @child, as it is named here, has the parent @want by @paths. */
static void expect_of(const Tree *tree, const char *child, Paths paths,
                      const char *want, bool want_guessed)
{
    g_autoptr(VHDXLocator) loc = locator_new(tree, paths);
    bool guessed = !want_guessed;
    g_autofree char *got = vhdx_parent_path_find(loc, child, &guessed,
                                                 &error_abort);

    g_assert_cmpstr(got, ==, want);
    g_assert_cmpint(guessed, ==, want_guessed);
}

/* The same of the usual child; @want is as it is */
static void expect_name(const Tree *tree, Paths paths, const char *want)
{
    g_autofree char *child = at(tree, CHILD);

    expect_of(tree, child, paths, want, false);
}

/* The same; @want is below top */
static void expect_path(const Tree *tree, Paths paths, const char *want)
{
    g_autofree char *name = at(tree, want);

    expect_name(tree, paths, name);
}

static void expect_guess(const Tree *tree, Paths paths, const char *want)
{
    g_autofree char *child = at(tree, CHILD);

    expect_of(tree, child, paths, want, true);
}

/* There is none; the message names @name and @value. */
static void expect_none_of(const Tree *tree, const char *child, Paths paths,
                           const char *name, const char *value)
{
    g_autoptr(VHDXLocator) loc = locator_new(tree, paths);
    Error *err = NULL;
    bool guessed = true;

    g_assert_null(vhdx_parent_path_find(loc, child, &guessed, &err));
    g_assert_false(guessed);
    expect_error(err, name, value);
}

static void expect_none(const Tree *tree, Paths paths, const char *name,
                        const char *value)
{
    g_autofree char *child = at(tree, CHILD);

    expect_none_of(tree, child, paths, name, value);
}

/* -- The paths -- */

static void test_relative(Tree *tree, const void *data)
{
    static const char *const same[] = {
        ".\\p.vhdx", "p.vhdx", ".\\\\p.vhdx", ".\\.\\p.vhdx", "./p.vhdx",
        ".\\/\\p.vhdx",
    };

    file(tree, "vm/p.vhdx");
    file(tree, "vm/sub/p.vhdx");
    file(tree, "b/p.vhdx");
    for (size_t i = 0; i < G_N_ELEMENTS(same); i++) {
        expect_name(tree, (Paths) { .relative = same[i] }, "p.vhdx");
    }
    expect_path(tree, (Paths) { .relative = ".\\sub\\p.vhdx" },
                "vm/sub/p.vhdx");
    expect_path(tree, (Paths) { .relative = "..\\b\\p.vhdx" }, "b/p.vhdx");
    expect_path(tree, (Paths) { .relative = "..\\b\\..\\vm\\p.vhdx" },
                "vm/p.vhdx");
    expect_path(tree, (Paths) { .relative = "sub\\..\\p.vhdx" }, "vm/p.vhdx");
}

static void test_absolute(Tree *tree, const void *data)
{
    file(tree, "b/p.vhdx");
    file(tree, "vm/p.vhdx");
    expect_path(tree, (Paths) { .absolute = "TOP\\b\\p.vhdx" }, "b/p.vhdx");
    expect_path(tree, (Paths) { .absolute = "TOP\\\\b\\.\\p.vhdx" },
                "b/p.vhdx");
    /* There is no such file by the relative one. */
    expect_path(tree, (Paths) { .relative = ".\\q.vhdx",
                                .absolute = "TOP\\vm\\p.vhdx" }, "vm/p.vhdx");
}

/* Which one it is, and how it is shown */
static void test_order(Tree *tree, const void *data)
{
    const Paths all = { "..\\b\\p.vhdx", "\\\\?\\Volume{1}\\x\\v.vhdx",
                        "TOP\\a\\p.vhdx" };
    const Paths both = { "p.vhdx", .absolute = "TOP\\vm\\p.vhdx" };

    file(tree, "vm/p.vhdx");
    file(tree, "vm/v.vhdx");
    file(tree, "a/p.vhdx");
    file(tree, "b/p.vhdx");
    expect_path(tree, all, "b/p.vhdx");
    delete(tree, "b/p.vhdx");
    expect_path(tree, all, "a/p.vhdx");
    delete(tree, "a/p.vhdx");
    expect_guess(tree, all, "p.vhdx");
    /* Given by its absolute name, it keeps that. */
    expect_path(tree, both, "vm/p.vhdx");
    file(tree, "a/p.vhdx");
    expect_name(tree, (Paths) { "p.vhdx", .absolute = "TOP\\a\\p.vhdx" },
                "p.vhdx");
    /* Two ways to one file */
    link_to(tree, "other", "vm");
    expect_path(tree, (Paths) { "p.vhdx", .absolute = "TOP\\other\\p.vhdx" },
                "other/p.vhdx");
}

/* What begins like another kind of path is no relative one. */
static void test_not_relative(Tree *tree, const void *data)
{
    g_autofree char *slashes = at(tree, "b/p.vhdx");

    file(tree, "b/p.vhdx");
    file(tree, "vm/C:/p.vhdx");
    file(tree, "vm/b/p.vhdx");
    expect_none(tree, (Paths) { "TOP\\b\\p.vhdx" }, "relative_path is", "p.v");
    expect_none(tree, (Paths) { slashes }, "relative_path is", "tried");
    expect_none(tree, (Paths) { "\\b\\p.vhdx" }, "relative_path is", "tried");
    expect_none(tree, (Paths) { "/b\\p.vhdx" }, "relative_path is", "tried");
    expect_none(tree, (Paths) { "\\\\b\\p.vhdx" }, "relative_path", "tried");
    expect_none(tree, (Paths) { "C:\\p.vhdx" }, "relative_path is", "tried");
    expect_none(tree, (Paths) { "c:/p.vhdx" }, "relative_path is", "tried");
}

/* What Windows takes for absolute is not looked for as such. */
static void test_not_absolute(Tree *tree, const void *data)
{
    static const char *const before[] = {
        "\\", "\\\\?", "\\\\.", "\\\\?\\GLOBALROOT", "\\\\?\\UNC\\server",
        "C:", "/.",
    };
    g_autofree char *slashes = at(tree, "b/p.vhdx");
    g_autofree char *path = with_top(tree, "TOP\\b\\p.vhdx");

    file(tree, "b/p.vhdx");
    expect_none(tree, (Paths) { .absolute = slashes }, "vm/p.vhdx'", "(No");
    for (size_t i = 0; i < G_N_ELEMENTS(before); i++) {
        g_autofree char *value = g_strconcat(before[i], path, NULL);

        expect_none(tree, (Paths) { .absolute = value }, "vm/p.vhdx'", "(No");
        expect_none(tree, (Paths) { .volume = value }, "vm/p.vhdx'", "(No");
        expect_none(tree, (Paths) { .volume = path }, "vm/p.vhdx'", "(No");
    }
}

/* No separator too many makes an absolute path. */
static void test_squeezed(Tree *tree, const void *data)
{
    expect_none(tree, (Paths) { ".\\\\etc\\passwd" }, "vm/etc/passwd'",
                "vm/passwd'");
    expect_none(tree, (Paths) { ".//etc/passwd" }, "vm/etc/passwd'",
                "vm/passwd'");
    file(tree, "vm/etc/passwd");
    expect_path(tree, (Paths) { ".\\\\etc\\passwd" }, "vm/etc/passwd");
}

/* A chain that was copied into one folder */
static void test_copied(Tree *tree, const void *data)
{
    static const char *const names[] = {
        "C:\\x\\p.vhdx", "\\\\server\\share\\p.vhdx", "\\\\.\\p.vhdx",
        "\\\\?\\GLOBALROOT\\Device\\p.vhdx", "\\nowhere\\p.vhdx",
        "\\\\?\\Volume{5e0b4b3f-0000-0000-0000-100000000000}\\x\\p.vhdx",
        "\\\\?\\C:\\x\\p.vhdx", "\\\\?\\UNC\\server\\share\\p.vhdx",
    };

    file(tree, "vm/p.vhdx");
    for (size_t i = 0; i < G_N_ELEMENTS(names); i++) {
        expect_guess(tree, (Paths) { .relative = names[i] }, "p.vhdx");
        expect_guess(tree, (Paths) { .volume = names[i] }, "p.vhdx");
        expect_guess(tree, (Paths) { .absolute = names[i] }, "p.vhdx");
    }
    expect_guess(tree, (Paths) { "..\\b\\p.vhdx" }, "p.vhdx");
    expect_guess(tree, (Paths) { "..\\b\\P.VHDX" }, "p.vhdx");
    file(tree, "vm/q.vhdx");
    file(tree, "vm/r.vhdx");
    expect_guess(tree, (Paths) { "C:\\r.vhdx", "C:\\q.vhdx", "C:\\p.vhdx" },
                 "r.vhdx");
    expect_guess(tree, (Paths) { "C:\\s.vhdx", "C:\\q.vhdx", "C:\\p.vhdx" },
                 "q.vhdx");
    expect_guess(tree, (Paths) { "C:\\s.vhdx", "C:\\t.vhdx", "C:\\p.vhdx" },
                 "p.vhdx");
}

/* -- Letter case -- */

static void test_case(Tree *tree, const void *data)
{
    file(tree, "vm/fat-parent.vhdx");
    file(tree, "Base/\xc3\x96rt/P.vhdx");
    expect_name(tree, (Paths) { ".\\FAT-Parent.VHDX" }, "fat-parent.vhdx");
    expect_path(tree, (Paths) { "..\\bAsE\\\xc3\xb6RT\\p.VHDX" },
                "Base/\xc3\x96rt/P.vhdx");
    expect_path(tree, (Paths) { .absolute = "TOP\\BASE\\\xc3\xb6rt\\p.vhdx" },
                "Base/\xc3\x96rt/P.vhdx");
    expect_path(tree, (Paths) { .relative = ".\\FAT-Parent.VHDX",
                                .absolute = "TOP\\VM\\fat-Parent.vhdx" },
                "vm/fat-parent.vhdx");
    /* Exact ones first, whatever else there is */
    file(tree, "vm/FAT-parent.vhdx");
    file(tree, "base/\xc3\x96rt/P.vhdx");
    expect_name(tree, (Paths) { "fat-parent.vhdx" }, "fat-parent.vhdx");
    expect_name(tree, (Paths) { "FAT-parent.vhdx" }, "FAT-parent.vhdx");
    expect_path(tree, (Paths) { "..\\base\\\xc3\xb6rt\\p.vhdx" },
                "base/\xc3\x96rt/P.vhdx");
    /* A name that is no UTF-8 is none of these. */
    file(tree, "vm/\xc3.vhdx");
    file(tree, "vm/\xc3\xa4.vhdx");
    expect_name(tree, (Paths) { "\xc3\x84.vhdx" }, "\xc3\xa4.vhdx");
}

static void test_two_fit(Tree *tree, const void *data)
{
    file(tree, "vm/Par.vhdx");
    file(tree, "vm/pAr.vhdx");
    file(tree, "Base/q.vhdx");
    file(tree, "bASE/q.vhdx");
    expect_none(tree, (Paths) { "par.vhdx" }, "vm/Par.vhdx'", "vm/pAr.vhdx'");
    expect_none(tree, (Paths) { "..\\base\\q.vhdx" }, "/Base'", "/bASE'");
    expect_none(tree, (Paths) { .absolute = "TOP\\base\\q.vhdx" }, "/Base'",
                "'base'");
    expect_none(tree, (Paths) { .absolute = "C:\\par.vhdx" }, "vm/Par.vhdx'",
                "'par.vhdx'");
    /* This one does not matter where the first is there. */
    expect_name(tree, (Paths) { "Par.vhdx", .absolute = "TOP\\vm\\par.vhdx" },
                "Par.vhdx");
}

/* -- What is never a parent -- */

static void test_self(Tree *tree, const void *data)
{
    g_autofree char *from = at(tree, CHILD);
    g_autofree char *to = at(tree, "vm/hard.vhdx");

    link_to(tree, "vm/soft.vhdx", "c.vhdx");
    g_assert_cmpint(link(from, to), ==, 0);
    expect_none(tree, (Paths) { "c.vhdx" }, "vm/c.vhdx'", "the image itself");
    expect_none(tree, (Paths) { "C.vhdx" }, "vm/C.vhdx'", "the image itself");
    expect_none(tree, (Paths) { "..\\base\\c.vhdx" }, "/base/c.vhdx' (No",
                "/vm/c.vhdx' (the image itself)");
    expect_none(tree, (Paths) { "soft.vhdx" }, "soft.vhdx'", "image itself");
    expect_none(tree, (Paths) { "hard.vhdx" }, "hard.vhdx'", "image itself");
    expect_none(tree, (Paths) { .absolute = "TOP\\vm\\c.vhdx" }, "c.vhdx'",
                "image itself");
    expect_none_of(tree, to, (Paths) { "c.vhdx" }, "c.vhdx'", "image itself");
    /* Behind it, the search goes on. */
    file(tree, "b/p.vhdx");
    expect_path(tree, (Paths) { "c.vhdx", .absolute = "TOP\\b\\p.vhdx" },
                "b/p.vhdx");
}

static void test_kinds(Tree *tree, const void *data)
{
    static const char *const bad[] = { "fifo", "folder", "to-fifo", "to-null" };
    g_autofree char *fifo = at(tree, "vm/fifo");

    folder(tree, "vm/folder");
    g_assert_cmpint(mkfifo(fifo, 0600), ==, 0);
    link_to(tree, "vm/to-fifo", "fifo");
    link_to(tree, "vm/to-null", "/dev/null");
    link_to(tree, "vm/to-nothing", "nothing");
    link_to(tree, "vm/circle", "circle");
    for (size_t i = 0; i < G_N_ELEMENTS(bad); i++) {
        expect_none(tree, (Paths) { bad[i] }, bad[i], "not a regular file");
    }
    expect_none(tree, (Paths) { "to-nothing" }, "to-nothing", "No such file");
    expect_none(tree, (Paths) { "to-nothing\\p.vhdx" },
                "to-nothing/p.vhdx' (No such file", "");
    expect_none(tree, (Paths) { "circle" }, "circle'", g_strerror(ELOOP));
    expect_none(tree, (Paths) { "fifo\\..\\c.vhdx" }, "/../c.vhdx'",
                g_strerror(ENOTDIR));
    /* Links are as good as files. */
    file(tree, "far/p.vhdx");
    link_to(tree, "vm/p.vhdx", "../far/p.vhdx");
    link_to(tree, "vm/near", "../far");
    expect_name(tree, (Paths) { "p.vhdx" }, "p.vhdx");
    expect_path(tree, (Paths) { "near\\p.vhdx" }, "far/p.vhdx");
}

static void test_system(Tree *tree, const void *data)
{
    static const char *const bad[] = {
        "\\proc\\self\\status", "\\dev\\null", "\\dev\\fdset\\1", "\\dev",
        "\\etc\\..\\proc\\self\\status", "\\PROC\\self\\status",
        "\\..\\proc\\self\\status", "\\sys\\kernel\\x",
        "\\proc\\self\\cwd\\p.vhdx", "\\proc\\self\\root\\etc\\passwd",
        "\\PROC\\self\\root\\etc\\passwd",
    };
    g_autofree char *child = at(tree, "usr/c.vhdx");
    g_autoptr(GString) up = g_string_new(NULL);

    for (size_t i = 0; i < G_N_ELEMENTS(bad); i++) {
        expect_none(tree, (Paths) { .absolute = bad[i] }, "tried",
                    "(no parent is looked for in /dev, /proc or /sys)");
    }
    for (int i = 0; i < 20; i++) {
        g_string_append(up, "..\\");
    }
    g_string_append(up, "proc\\self\\status");
    expect_none(tree, (Paths) { up->str }, "../proc/self/status'",
                "(no parent");
    /* By links, as the path is written it is elsewhere. */
    link_to(tree, "vm/link", "/proc/self");
    link_to(tree, "vm/status", "/proc/self/status");
    expect_none(tree, (Paths) { "link\\status" }, "link/status'", "(no parent");
    expect_none(tree, (Paths) { "link\\exe" }, "link/exe'", "(no parent");
    expect_none(tree, (Paths) { "status" }, "vm/status'", "(no parent");
    link_to(tree, "usr", "/usr");
    expect_none_of(tree, child, (Paths) { "..\\proc\\self\\status" },
                   "usr/../proc/self/status'", "(no parent");
    /* Only whole names count. */
    file(tree, "vm/dev/p.vhdx");
    expect_path(tree, (Paths) { "dev\\p.vhdx" }, "vm/dev/p.vhdx");
    expect_none(tree, (Paths) { .absolute = "\\devices\\p" }, "'/devices/p'",
                "(No such file");
}

/* A path that the system can't follow has its own reason. */
static void test_deep(Tree *tree, const void *data)
{
    g_autofree char *name = g_strnfill(NAME_MAX, 'd');
    const int depth = PATH_MAX / NAME_MAX + 1;

    g_assert_cmpint(chdir(tree->top), ==, 0);
    for (int i = 0; i < depth; i++) {
        g_assert_cmpint(g_mkdir(name, 0700), ==, 0);
        g_assert_cmpint(chdir(name), ==, 0);
    }
    g_assert_true(g_file_set_contents("p", "", 0, NULL));
    g_assert_cmpstr(vhdx_parent_path_refused("p"), ==,
                    g_strerror(ENAMETOOLONG));
    g_assert_cmpint(g_remove("p"), ==, 0);
    for (int i = 0; i < depth; i++) {
        g_assert_cmpint(chdir(".."), ==, 0);
        g_assert_cmpint(g_rmdir(name), ==, 0);
    }
}

/* -- Names that QEMU would take for something else -- */

static void test_protocols(Tree *tree, const void *data)
{
    static const char *const names[] = {
        "json:{\"driver\":\"null-co\"}", "nbd:localhost:10809", "nbd:unix:x",
        "fat:x", "http:x", "file:c.vhdx", "image:base.vhdx",
    };
    static const char *const folders[] = {
        "nbd:\\\\host\\x", "http://host/x.vhdx", "fat:\\etc", "json:\\x",
    };

    for (size_t i = 0; i < G_N_ELEMENTS(folders); i++) {
        expect_none(tree, (Paths) { folders[i] }, "Could not find", "/vm/");
        expect_none(tree, (Paths) { .absolute = folders[i] }, "vm/", "(No");
    }
    for (size_t i = 0; i < G_N_ELEMENTS(names); i++) {
        g_autofree char *path = g_strconcat("vm/", names[i], NULL);
        g_autofree char *form = g_strconcat("./", names[i], NULL);
        g_autofree char *dotted = g_strconcat(".\\", names[i], NULL);

        expect_none(tree, (Paths) { names[i] }, "Could not find", "/vm/");
        file(tree, path);
        expect_name(tree, (Paths) { names[i] }, form);
        expect_name(tree, (Paths) { dotted }, form);
        expect_guess(tree, (Paths) { .absolute = names[i] }, form);
    }
    /* One letter is a drive. */
    file(tree, "vm/a:b.vhdx");
    expect_guess(tree, (Paths) { "a:b.vhdx" }, "./a:b.vhdx");
    expect_name(tree, (Paths) { ".\\a:b.vhdx" }, "./a:b.vhdx");
    file(tree, "b:b/p.vhdx");
    expect_path(tree, (Paths) { "..\\b:b\\p.vhdx" }, "b:b/p.vhdx");
}

/* -- Names of the child -- */

static void test_child_names(Tree *tree, const void *data)
{
    g_autofree char *in_b = at(tree, "b/p.vhdx");
    g_autofree char *in_vm = at(tree, "vm/p.vhdx");
    g_autofree char *vm = at(tree, "vm");

    file(tree, "vm/p.vhdx");
    file(tree, "b/p.vhdx");
    g_assert_cmpint(chdir(tree->top), ==, 0);
    expect_of(tree, CHILD, (Paths) { "p.vhdx" }, "p.vhdx", false);
    expect_of(tree, "./" CHILD, (Paths) { "P.vhdx" }, "p.vhdx", false);
    expect_of(tree, CHILD, (Paths) { "..\\b\\p.vhdx" }, in_b, false);
    g_assert_cmpint(chdir(vm), ==, 0);
    expect_of(tree, "c.vhdx", (Paths) { "p.vhdx" }, "p.vhdx", false);
    expect_of(tree, "c.vhdx", (Paths) { ".\\P.vhdx" }, "p.vhdx", false);
    expect_of(tree, "c.vhdx", (Paths) { "..\\b\\p.vhdx" }, in_b, false);
    expect_of(tree, "c.vhdx", (Paths) { .volume = "C:\\p.vhdx" }, "p.vhdx",
              true);
    expect_of(tree, "c.vhdx", (Paths) { .relative = "p.vhdx",
                                        .absolute = "TOP\\vm\\p.vhdx" },
              in_vm, false);
    expect_none_of(tree, "c.vhdx", (Paths) { "x\\c.vhdx" }, "'x/c.vhdx' (No",
                   "'c.vhdx' (the image itself)");
    expect_none_of(tree, "./a:c.vhdx", (Paths) { "x" }, "'./x' (No", "");
}

/* '..' is from where the child's folder is, as the kernel has it. */
static void test_linked_folder(Tree *tree, const void *data)
{
    g_autofree char *child = at(tree, "link/c.vhdx");
    g_autofree char *parent = at(tree, "far/p.vhdx");

    folder(tree, "far/vm");
    file(tree, "far/vm/c.vhdx");
    file(tree, "far/p.vhdx");
    file(tree, "p.vhdx");
    link_to(tree, "link", "far/vm");
    expect_of(tree, child, (Paths) { "..\\p.vhdx" }, parent, false);
}

static void test_remote(Tree *tree, const void *data)
{
    static const char *const children[] = {
        NULL, "ssh://host/dir/c.vhdx", "json:{}", "nbd:unix:x",
    };

    file(tree, "vm/p.vhdx");
    for (size_t i = 0; i < G_N_ELEMENTS(children); i++) {
        const char *child = children[i];

        expect_of(tree, child, (Paths) { ".\\p.vhdx" }, "p.vhdx", false);
        expect_of(tree, child, (Paths) { "..\\\\b\\P.vhdx" }, "../b/P.vhdx",
                  false);
        expect_of(tree, child, (Paths) { ".\\a:b\\c" }, "./a:b/c", false);
        expect_of(tree, child, (Paths) { "nbd:x" }, "./nbd:x", false);
        expect_of(tree, child, (Paths) { .relative = "b\\a:c",
                                         .absolute = "TOP\\vm\\p.vhdx" },
                  "b/a:c", false);
        expect_none_of(tree, child, (Paths) { .absolute = "TOP\\vm\\p.vhdx" },
                       "no local file", "absolute_win32_path is");
        expect_none_of(tree, child, (Paths) { "\\etc\\passwd" },
                       "no local file", "relative_path is '\\etc\\passwd'");
        expect_none_of(tree, child, (Paths) { "C:p.vhdx" }, "no local file",
                       "relative_path is 'C:p.vhdx'");
        expect_none_of(tree, child, (Paths) { ".\\" }, "no local file", "");
    }
}

/* -- Bounds -- */

static void test_long(Tree *tree, const void *data)
{
    g_autofree char *most = g_strnfill(65534, 'x');
    g_autofree char *parts = g_strnfill(65534, '\\');
    g_autoptr(GString) loop = g_string_new("VM");
    g_autofree char *part = g_strnfill(300, 'y');

    for (int i = 0; i < 65533; i += 2) {
        parts[i] = 'a';
    }
    expect_none(tree, (Paths) { most }, g_strerror(ENAMETOOLONG), "tried");
    expect_none(tree, (Paths) { parts }, g_strerror(ENAMETOOLONG), "vm/a' (N");
    expect_none(tree, (Paths) { part }, g_strerror(ENAMETOOLONG), "tried");
    expect_none_of(tree, NULL, (Paths) { most }, "no local file", "");
    /* Folders are read so many times in all, and no more. */
    for (int i = 0; i < 70; i++) {
        g_string_append(loop, "\\..\\VM");
    }
    g_string_prepend(loop, "..\\");
    g_string_append(loop, "\\sub\\p.vhdx");
    file(tree, "vm/sub/p.vhdx");
    expect_none(tree, (Paths) { loop->str }, "too many directories", "tried");
    g_string_truncate(loop, strlen("..\\VM") + 60 * strlen("\\..\\VM"));
    g_string_append(loop, "\\sub\\p.vhdx");
    expect_path(tree, (Paths) { loop->str }, "vm/sub/p.vhdx");
}

/* -- The message -- */

static void test_none(Tree *tree, const void *data)
{
    g_autoptr(VHDXLocator) loc = locator_new(tree, (Paths) {
        "..\\b\\p.vhdx", "\\\\?\\Volume{1}\\v.vhdx", "\\no\\such\\p.vhdx" });
    g_autofree char *want = g_strdup_printf(
        "Could not find the parent of 'vm/c.vhdx': relative_path is "
        "'..\\b\\p.vhdx', volume_path is '\\\\?\\Volume{1}\\v.vhdx', "
        "absolute_win32_path is '\\no\\such\\p.vhdx'; tried 'vm/../b/p.vhdx' "
        "(%s), '/no/such/p.vhdx' (%s), 'vm/p.vhdx' (%s), 'vm/v.vhdx' (%s); "
        "put it beside the child, give it as 'backing', or have another path "
        "stored by 'qemu-img rebase -u -f vhdx -b PATH -F vhdx vm/c.vhdx'",
        g_strerror(ENOENT), g_strerror(ENOENT), g_strerror(ENOENT),
        g_strerror(ENOENT));
    Error *err = NULL;
    bool guessed;

    g_assert_cmpint(chdir(tree->top), ==, 0);
    g_assert_null(vhdx_parent_path_find(loc, CHILD, &guessed, &err));
    g_assert_cmpstr(error_get_pretty(err), ==, want);
    error_free(err);
    expect_none(tree, (Paths) { ".\\.", .absolute = "C:\\.." },
                "none can be tried", "absolute_win32_path is 'C:\\..'");
}

/* -- The file that is to be a parent -- */

/* That at @path can't be one; the message names it, and says @why. */
static void expect_no_parent(const char *path, const char *why)
{
    VHDXGuid data_write, disk_id;
    Error *err = NULL;

    g_assert_cmpint(vhdx_parent_file_read(path, 512, &data_write, &disk_id,
                                          &err), <, 0);
    expect_error(err, path, why);
}

/* What is read of @img, stored at @path, is what it has. */
static void expect_parent(const char *path, const Image *img)
{
    VHDXGuid data_write, disk_id, want;

    g_assert_true(g_file_set_contents(path, (char *)img->file, IMAGE_SIZE,
                                      NULL));
    g_assert_cmpint(vhdx_parent_file_read(path, 512, &data_write, &disk_id,
                                          &error_abort), ==, 0);
    put_guid(want.id, "11121314-1516-1718-191A-1B1C1D1E1F20");
    want = vhdx_guid_decode(want.id);
    g_assert_true(vhdx_guid_equal(&data_write, &want));
    memset(want.id, 0, sizeof(want.id));
    put_le(want.id, 0x1234, 2);
    want = vhdx_guid_decode(want.id);
    g_assert_true(vhdx_guid_equal(&disk_id, &want));
}

/* Files that end within what is read, or before it */
static void test_file_cut(Tree *tree, const void *data)
{
    static const struct {
        uint32_t end;
        uint32_t needed;
    } cuts[] = {
        { 0, 8 },
        { 4, 8 },
        { 65 * KiB, 68 * KiB },                 /* header 1 */
        { 100 * KiB, 132 * KiB },               /* header 2 */
        { 200 * KiB, 256 * KiB },               /* region table 1 */
        { MiB, IMAGE_METADATA + 64 * KiB },     /* metadata table */
        { IMAGE_METADATA + 32 * KiB, IMAGE_METADATA + 64 * KiB },
        /* logical sector size */
        { IMAGE_METADATA + 64 * KiB, IMAGE_METADATA + 64 * KiB + 52 },
        { IMAGE_METADATA + 64 * KiB + 50, IMAGE_METADATA + 64 * KiB + 52 },
    };
    g_autofree char *path = at(tree, "p.vhdx");
    Image *img = image_new();

    for (size_t i = 0; i < G_N_ELEMENTS(cuts); i++) {
        g_autofree char *why = g_strdup_printf("can't be a parent: it ends "
                                               "before offset %u",
                                               cuts[i].needed);

        expect_parent(path, img);
        g_assert_cmpint(truncate(path, cuts[i].end), ==, 0);
        expect_no_parent(path, why);
    }
    image_free(img);
}

static void test_file_damaged(Tree *tree, const void *data)
{
    const uint32_t entries = IMAGE_METADATA + 32;
    const struct {
        uint32_t at[2];
        uint8_t value;
        const char *why;                /* NULL: it is none the worse for it */
    } damage[] = {
        { { 64 * KiB }, 0, NULL },
        { { 192 * KiB + 100 }, 1, NULL },
        { { 256 * KiB + 100 }, 1, NULL },
        { { 7 }, 'E', "it is not in VHDX format" },
        { { 64 * KiB, 128 * KiB }, 0, "neither VHDX header has a valid" },
        { { 192 * KiB, 256 * KiB }, 0, "neither region table has a valid" },
        { { IMAGE_METADATA }, 0, "metadata table has no valid signature" },
        { { entries + 3 * 32 + 20 }, 8, "no valid 'Logical Sector Size'" },
        { { entries + 2 * 32 + 20 }, 8, "no valid 'Virtual Disk ID'" },
    };
    g_autofree char *path = at(tree, "p.vhdx");

    for (size_t i = 0; i < G_N_ELEMENTS(damage); i++) {
        Image *img = image_new();

        for (int n = 0; n < 2 && damage[i].at[n]; n++) {
            img->file[damage[i].at[n]] = damage[i].value;
        }
        if (damage[i].why) {
            g_assert_true(g_file_set_contents(path, (char *)img->file,
                                              IMAGE_SIZE, NULL));
            expect_no_parent(path, damage[i].why);
        } else {
            expect_parent(path, img);
        }
        image_free(img);
    }
}

static void test_file_kinds(Tree *tree, const void *data)
{
    g_autofree char *fifo = at(tree, "fifo");
    g_autofree char *none = at(tree, "none");
    struct sockaddr_un socket_at = { .sun_family = AF_UNIX };
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);

    g_assert_cmpint(mkfifo(fifo, 0600), ==, 0);
    expect_no_parent(fifo, "it is no regular file");
    expect_no_parent(tree->top, "it is no regular file");
    expect_no_parent(none, g_strerror(ENOENT));
    expect_no_parent("/proc/self/status", "/dev, /proc or /sys");
    /* There is one, which can't be opened, by whatever user. */
    g_snprintf(socket_at.sun_path, sizeof(socket_at.sun_path), "%s/socket",
               tree->top);
    g_assert_cmpint(bind(fd, (struct sockaddr *)&socket_at, sizeof(socket_at)),
                    ==, 0);
    expect_no_parent(socket_at.sun_path, g_strerror(ENXIO));
    close(fd);
}

/* -- The paths that a child gets -- */

/* An absolute name alone, where there is no folder to know the way to */
static void test_store_no_way(Tree *tree, const void *data)
{
    g_autofree char *child = at(tree, CHILD);
    g_autofree char *parent = at(tree, "none/p.vhdx");
    g_autofree char *want = with_top(tree, "TOP\\none\\p.vhdx");
    g_autoptr(VHDXLocator) loc = g_new0(VHDXLocator, 1);

    g_assert_cmpint(vhdx_parent_name_store(loc, child, parent, NULL,
                                           &error_abort), ==, 0);
    g_assert_null(loc->relative_path);
    g_assert_cmpstr(loc->absolute_win32_path, ==, want);
}

static void test_store_remote(Tree *tree, const void *data)
{
    g_autofree char *parent = at(tree, "p.vhdx");
    g_autoptr(VHDXLocator) loc = g_new0(VHDXLocator, 1);
    Error *err = NULL;

    g_assert_cmpint(vhdx_parent_name_store(loc, "nbd:unix:x", parent, NULL,
                                           &err), <, 0);
    expect_error(err, parent, "the child is no local file");
    g_assert_null(loc->absolute_win32_path);
}

static void add(const char *name, void (*test)(Tree *, const void *))
{
    g_autofree char *path = g_strconcat("/vhdx/parent-path/", name, NULL);

    g_test_add(path, Tree, NULL, setup, test, teardown);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);

    add("relative", test_relative);
    add("absolute", test_absolute);
    add("order", test_order);
    add("not-relative", test_not_relative);
    add("not-absolute", test_not_absolute);
    add("squeezed", test_squeezed);
    add("copied", test_copied);
    add("case", test_case);
    add("two-fit", test_two_fit);
    add("self", test_self);
    add("kinds", test_kinds);
    add("system", test_system);
    add("deep", test_deep);
    add("protocols", test_protocols);
    add("child-names", test_child_names);
    add("linked-folder", test_linked_folder);
    add("remote", test_remote);
    add("long", test_long);
    add("none", test_none);
    add("file-cut", test_file_cut);
    add("file-damaged", test_file_damaged);
    add("file-kinds", test_file_kinds);
    add("store-no-way", test_store_no_way);
    add("store-remote", test_store_remote);

    return g_test_run();
}

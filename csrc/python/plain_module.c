/* nn.Module keeps its entries in the dicts _parameters, _buffers and _modules of its __dict__; a
 * module on which that is not the whole truth is unsupported. */
#include "python/plain_module.h"

#include "python/borrowed.h"

#include <string.h>

/* For the trail: of objects what lies before them, of dicts an entry, of the dict of a module's
 * members what is read of keys and values, of hooks and sets the head with the number of entries.
 */
#define OBJECT_HEAD 32
#define ENTRY_BYTES 24
#define MEMBER_KEY_BYTES 376
#define MEMBER_VALUE_BYTES 152
#define COUNTED_BYTES 40
#define TYPE_BYTES 424 /* of a type, to its version */

static const char entries_elsewhere[] = "keeps its entries elsewhere";

void
y5_path_text(const y5_path *path, char *text, size_t size)
{
    size_t begin = size - 1; /* filled from the end: of a long key the last names say most */
    text[begin] = '\0';
    for (; path != NULL; path = path->parent) {
        PyObject *utf8 = PyUnicode_AsEncodedString(path->name, "utf-8", "backslashreplace");
        char *name = NULL;
        Py_ssize_t length = 0;
        if (utf8 == NULL || PyBytes_AsStringAndSize(utf8, &name, &length) < 0) {
            PyErr_Clear(); /* no memory for a name in a message */
        }
        bool dot = text[begin] != '\0';
        bool fits = name != NULL && (size_t)length + dot <= begin;
        if (fits) {
            text[begin - dot] = dot ? '.' : '\0';
            begin -= (size_t)length + dot;
            memcpy(text + begin, name, (size_t)length);
        }
        Py_XDECREF(utf8);
        if (!fits) {
            break;
        }
    }
    memmove(text, text + begin, size - begin);
    if (text[0] == '\0') {
        strncpy(text, "model", size);
    }
}

PyObject *
y5_path_key(const y5_path *path)
{
    PyObject *names = PyList_New(0);
    PyObject *dot = PyUnicode_FromString(".");
    bool whole = names != NULL && dot != NULL;
    for (; whole && path != NULL; path = path->parent) {
        whole = PyList_Append(names, path->name) == 0;
    }
    whole = whole && PyList_Reverse(names) == 0;
    PyObject *key = whole ? PyUnicode_Join(dot, names) : NULL;
    Py_XDECREF(dot);
    Py_XDECREF(names);
    return key;
}

y5_status
y5_refuse_module(y5_error *error, const y5_path *path, const char *why)
{
    y5_fail(error, Y5_UNSUPPORTED, "", "%s", why);
    y5_path_text(path, error->argument, sizeof(error->argument));
    return Y5_UNSUPPORTED;
}

/* Objects lie at regular distances: a plain remainder would make them meet. */
size_t
y5_slot_of(const void *object, size_t slots)
{
    return (size_t)((((uint64_t)(uintptr_t)object >> 4) * 0x9E3779B97F4A7C15U) >> 40) % slots;
}

/* Y5_OK where type.name is `own`; an attribute that is missing is as good as another one. */
static y5_status
check_attribute(const y5_module_rules *self, PyTypeObject *type, PyObject *name, PyObject *own,
                const y5_path *path)
{
    PyObject *found = PyObject_GetAttr((PyObject *)type, name);
    if (found == NULL) {
        if (!PyErr_ExceptionMatches(PyExc_AttributeError)) {
            return Y5_PYTHON_RAISED;
        }
        PyErr_Clear(); /* AttributeError: as good as another method */
    }
    bool same = found == own;
    Py_XDECREF(found);
    return same ? Y5_OK
                : y5_refuse_module(self->error, path, "overrides a method this walk replaces");
}

/* Y5_OK where the type uses nn.Module's own methods and keeps its entries in its __dict__. */
static y5_status
check_type(y5_module_rules *self, PyObject *module, const y5_node *opened, const y5_path *path)
{
    PyTypeObject *type = Py_TYPE(module);
    size_t slot = y5_slot_of(type, Y5_KNOWN_TYPES);
    if (self->known_types[slot] == type) {
        return Y5_OK;
    }
    const y5_torch *torch = &self->state->torch;
    PyObject *const *names = self->state->names;
    y5_trail_meet(self->trail, type, TYPE_BYTES);
    y5_status status =
        check_attribute(self, type, names[Y5_NAME_GETATTRIBUTE], torch->getattribute, path);
    for (int32_t i = self->first_method; i < self->last_method && status == Y5_OK; i++) {
        if (torch->methods[i] != NULL) {
            status = check_attribute(self, type, names[i], torch->methods[i], path);
        }
    }
    PyObject *const dicts[] = {opened->parameters, opened->buffers, opened->modules};
    for (int32_t i = 0; i < 3 && status == Y5_OK; i++) {
        /* What the plain __getattribute__ does; __getattr__ is for what this does not find. */
        PyObject *seen = PyObject_GenericGetAttr(module, names[Y5_NAME_PARAMETERS + i]);
        bool same = seen == dicts[i];
        Py_XDECREF(seen);
        if (seen == NULL) {
            return Y5_PYTHON_RAISED;
        }
        if (!same) {
            status = y5_refuse_module(self->error, path, entries_elsewhere);
        }
    }
    if (status == Y5_OK) {
        Py_INCREF(type); /* else another type could come to the same address */
        Py_XDECREF((PyObject *)self->known_types[slot]);
        self->known_types[slot] = type;
    }
    return status;
}

/* A new reference to the plain dict of that name; NULL where there is none. */
static PyObject *
member_dict(const y5_module_rules *self, PyObject *members, PyObject *name)
{
    PyObject *dict = y5_dict_get(members, name);
    /* OrderedDict, of torch before 2.4, is walked in its order unless entries were moved in it. */
    bool plain = dict != NULL && PyDict_Check(dict) &&
                 (PyDict_CheckExact(dict) || Py_TYPE(dict) == self->state->torch.ordered_dict_type);
    if (!plain) {
        Py_CLEAR(dict);
    }
    return dict;
}

void
y5_close_module(y5_node *opened)
{
    Py_CLEAR(opened->non_persistent);
    Py_CLEAR(opened->modules);
    Py_CLEAR(opened->buffers);
    Py_CLEAR(opened->parameters);
    Py_CLEAR(opened->members);
}

/* What is read of a module: the heads of its dicts and their entries, of its own to "_modules". */
static void
meet_module(y5_trail *trail, PyObject *module, const y5_node *opened)
{
    if (trail == NULL) {
        return;
    }
    PyObject *const dicts[] = {opened->parameters, opened->buffers, opened->modules};
    y5_trail_meet(trail, (const char *)module - OBJECT_HEAD, OBJECT_HEAD + 16);
    y5_trail_meet_dict(trail, opened->members, MEMBER_KEY_BYTES, MEMBER_VALUE_BYTES);
    for (int32_t i = 0; i < 3; i++) {
        size_t size = (size_t)PyDict_Size(dicts[i]);
        y5_trail_meet_dict(trail, dicts[i], size > 0 ? 40 + ENTRY_BYTES * size : 0, 0);
    }
}

y5_status
y5_open_module(y5_module_rules *self, PyObject *module, const y5_path *path, y5_node *out)
{
    PyObject *const *names = self->state->names;
    if (!PyObject_TypeCheck(module, self->state->torch.module_type)) {
        return y5_refuse_module(self->error, path, "not an nn.Module");
    }
    out->members = PyObject_GenericGetDict(module, NULL);
    if (out->members == NULL) {
        return Y5_PYTHON_RAISED;
    }
    PyObject **const dicts[] = {&out->parameters, &out->buffers, &out->modules};
    for (int32_t i = 0; i < 3; i++) {
        *dicts[i] = member_dict(self, out->members, names[Y5_NAME_PARAMETERS + i]);
        if (*dicts[i] == NULL) {
            return PyErr_Occurred() ? Y5_PYTHON_RAISED
                                    : y5_refuse_module(self->error, path, entries_elsewhere);
        }
    }
    meet_module(self->trail, module, out);
    int32_t last = path == NULL ? self->last_outer : self->last_inner;
    for (int32_t i = self->first_method; i < last; i++) {
        PyObject *own = y5_dict_get(out->members, names[i]);
        Py_XDECREF(own);
        if (own != NULL) {
            return y5_refuse_module(self->error, path, "has a method of its own on the instance");
        }
        if (PyErr_Occurred()) {
            return Y5_PYTHON_RAISED;
        }
    }
    return check_type(self, module, out, path);
}

/* 1 where members[name] is there and is not an empty dict, -1 with an exception. */
static int
is_non_empty(const y5_module_rules *self, PyObject *members, PyObject *name)
{
    PyObject *hooks = y5_dict_get(members, name);
    y5_trail_meet(self->trail, hooks, COUNTED_BYTES);
    int some = hooks != NULL      ? !PyDict_Check(hooks) || PyDict_Size(hooks) != 0
               : PyErr_Occurred() ? -1
                                  : 0;
    Py_XDECREF(hooks);
    return some;
}

y5_status
y5_open_state(y5_module_rules *self, PyObject *module, const y5_path *path, y5_node *out)
{
    y5_status status = y5_open_module(self, module, path, out);
    if (status != Y5_OK) {
        return status;
    }
    PyObject *const *names = self->state->names;
    int hooked = is_non_empty(self, out->members, names[Y5_NAME_HOOKS]);
    hooked = hooked == 0 ? is_non_empty(self, out->members, names[Y5_NAME_PRE_HOOKS]) : hooked;
    if (hooked != 0) {
        return hooked < 0 ? Y5_PYTHON_RAISED
                          : y5_refuse_module(self->error, path, "has state_dict hooks");
    }
    if (PyDict_Size(out->buffers) > 0) {
        out->non_persistent = y5_dict_get(out->members, names[Y5_NAME_NON_PERSISTENT]);
        y5_trail_meet(self->trail, out->non_persistent, COUNTED_BYTES);
        if (out->non_persistent != NULL && !PyAnySet_Check(out->non_persistent)) {
            return y5_refuse_module(self->error, path,
                                    "names hidden buffers otherwise than in a set");
        }
        if (out->non_persistent != NULL && PySet_Size(out->non_persistent) == 0) {
            Py_CLEAR(out->non_persistent);
        }
    }
    return PyErr_Occurred() ? Y5_PYTHON_RAISED : Y5_OK;
}

void
y5_forget_types(y5_module_rules *self)
{
    for (size_t i = 0; i < Y5_KNOWN_TYPES; i++) {
        Py_CLEAR(self->known_types[i]);
    }
}

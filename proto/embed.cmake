# Writes a C file that defines `descriptor_set` as the bytes of a file:
#
#   cmake -D INPUT=FILE -D OUTPUT=FILE.c -P embed.cmake
#
# Of what could do this, CMake is the one program that every build of stockd has already, and a C
# array is the one form that all compilers and sanitizers take alike.
file(READ ${INPUT} bytes HEX)
set(digit "[0-9a-f]")
string(REPEAT "${digit}${digit}" 16 line)
string(REGEX REPLACE "(${line})" "\\1\n" bytes "${bytes}")
string(REGEX REPLACE "(${digit}${digit})" "0x\\1," bytes "${bytes}")
file(
  WRITE ${OUTPUT}
  "#include \"proto/descriptor_set.h\"\n\n"
  "const uint8_t descriptor_set[] = {\n${bytes}\n};\n"
  "const size_t descriptor_set_size = sizeof(descriptor_set);\n")

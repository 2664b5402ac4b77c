// JSON, SHA-256, DEFLATE and .npy: known answers, and whatever is malformed is refused without a crash.
#include <cstdint>
#include <string>

#include "check.hpp"

namespace {

using namespace edgeae;
using namespace edgeae::detail;

Json parse(const std::string& source) { return parse_json(source, "f"); }

void test_sha256() {
  // FIPS 180-4's examples, and lengths around a block's end (checked with Python's hashlib).
  CHECK(sha256("") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  CHECK(sha256("abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  CHECK(sha256(std::string(55, 'a')) == "9f4390f8d30c2dd92ec9f095b65e2b9ae9b0a925a5258e241c9f1e910f734318");
  CHECK(sha256(std::string(56, 'a')) == "b35439a4ac6f0948b6d6f9e3c6af0f5f590ce20f1bde7090ef7970686ec6738a");
  CHECK(sha256(std::string(64, 'a')) == "ffe054fe7ae0cb6dc65c3af9b61d5209f439851db43d0ba5997337df154668eb");
  CHECK(sha256(std::string(1000000, 'a')) == "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

void test_json() {
  const Json json = parse(" {\"a\": [1, -2.5e1, true, false, null], \"b\": {\"c\": \"\\u00e9\\n\\ud83d\\ude00\"}} ");
  const Json& list = json.at("a");
  CHECK(list.size() == 5 && *list.value(0).integer() == 1 && list.value(0).kind == Json::Kind::whole);
  CHECK(list.value(1).kind == Json::Kind::real && !(list.value(1).number() < -25) && !(list.value(1).number() > -25));
  CHECK(list.shown() == "[1, -25.0, True, False, None]");
  CHECK(json.at("b").at("c").word == "\xC3\xA9\n\xF0\x9F\x98\x80");
  CHECK(json.at("b").shown() == "{'c': '\xC3\xA9\\n\xF0\x9F\x98\x80'}");
  CHECK(!parse("9223372036854775808").integer() && *parse("-9223372036854775808").integer() == INT64_MIN);
  CHECK(parse("1e16").shown() == "1e+16" && parse("0.0001").shown() == "0.0001" && parse("1.5E-5").shown() == "1.5e-05");
  CHECK(parse("1e-999").shown() == "0.0" && parse("5e-324").shown() == "5e-324" && parse("-0").shown() == "0");
  CHECK(json.find("z") == nullptr);
  for (const char* bad : {"", "{", "[1,]", "{\"a\"}", "{\"a\":1,}", "01", "1.", ".5", "+1", "-", "1e", "tru", "\"", "\"\\x\"",
                          "\"\\u12\"", "\"\n\"", "1 2", "'a'", "[1 2]", "{1: 2}"})
    CHECK_THROWS(BundleError, "f: not valid JSON: ", parse(bad));
  CHECK_THROWS(BundleError, "f: NaN is not allowed in JSON", parse("[NaN]"));
  CHECK_THROWS(BundleError, "f: -Infinity is not allowed in JSON", parse("-Infinity"));
  CHECK_THROWS(BundleError, "f: the number '1e999' is beyond float64", parse("1e999"));
  CHECK_THROWS(BundleError, "f: the key 'a' stands there twice", parse("{\"a\": 1, \"a\": 2}"));
  CHECK_THROWS(BundleError, "f: nested deeper than 32 lists and objects", parse(std::string(100000, '[')));
  const auto many = [](const std::string& piece, int times) {
    std::string all = "[";
    for (int i = 0; i < times; ++i) all += piece;
    return all + "0]";
  };
  CHECK(parse(many("1,", 1000000)).size() == 1000001);
  CHECK_THROWS(BundleError, "f: holds more than 65,536 lists, objects and keys", parse(many("[],", 65536)));
  CHECK_THROWS(BundleError, "f: holds more than 1,048,576 strings", parse(many("\"\",", 1048577)));
  for (const char* bad : {"\"\xFF\"", "\"\xC0\x80\"", "\"\xED\xA0\x80\"", "\"\xF4\x90\x80\x80\"", "\"\xE2\x82\""})
    CHECK_THROWS(BundleError, "f: not UTF-8 at byte 1", parse(bad));
}

std::string from_hex(const std::string& hex) {
  std::string bytes;
  for (std::size_t i = 0; i + 1 < hex.size(); i += 2)
    bytes += static_cast<char>(static_cast<unsigned char>(std::stoi(hex.substr(i, 2), nullptr, 16)));
  return bytes;
}

void test_inflate() {
  const auto inflate = [](const std::string& packed, std::size_t size) { return Inflate(packed).run(size); };
  // Made with zlib: a stored block, fixed codes, dynamic codes.
  CHECK(inflate(from_hex("010300fcff616263"), 3) == "abc");
  std::string abc;
  for (int i = 0; i < 101; ++i) abc += "abc";
  CHECK(inflate(from_hex("4b4c4a4e1c45442300"), 303) == abc);
  const std::string dynamic =
      "354f8b0d4431089a151471ff091ef6724d9aa8fc14da05505b354c55206fe4821702034e83031a8dd0d2605200ec0968c0b4fb7550358513"
      "f334ed1d13158b4593e560b0a4a0f1bb690ca361254706d79de15e4c511d55910c4d1b92a218b4a20c0d17597827607fdb9eeddc5a6556c2"
      "72101fee868e907f600f434c5a219b73b49c61a0ffcb2e7a6eca5558eb03";
  CHECK(sha256(inflate(from_hex(dynamic), 300)) == "cf18814ee32dfc3c3486ac485189e915fc2407b410813bf89e53c057a671b3b4");
  const std::string stored = from_hex("010300fcff616263"), more = stored + "x", cut = stored.substr(0, 6);
  Inflate whole(stored), behind(more), early(cut), less(stored);
  CHECK(whole.run(9) == "abc" && whole.complete() && whole.unused() == 0);
  CHECK(behind.run(9) == "abc" && behind.complete() && behind.unused() == 1);
  CHECK(early.run(9) == "a" && !early.complete());
  CHECK(less.run(2) == "ab" && !less.complete());
  for (const char* bad : {"07", "010300fcfe616263", "fdff", "4b046200", "e5c0810800000000"}) {
    const std::string packed = from_hex(bad);
    Inflate wrong(packed);
    wrong.run(1000);
    CHECK(!wrong.complete());
  }
}

}  // namespace

int main() try {
  test_sha256();
  test_json();
  test_inflate();
  return finish();
} catch (const std::exception& problem) {
  std::cout << "uncaught: " << problem.what() << '\n';
  return 1;
}

// Compares what the server serves with the package it was imported from: every surah of every book, text for text.
// usage: node compare-package.js PACKAGE/dist HOST:PORT
const fs = require("fs");
const [dist, host] = process.argv.slice(2);

async function surah(number, translation) {
  const query = translation ? `?translation=${translation}` : "";
  const answer = await fetch(`http://${host}/api/v1/surahs/${number}${query}`);
  if (answer.status !== 200) throw new Error(`surah ${number}${query}: status ${answer.status}`);
  return answer.json();
}

async function main() {
  let texts = 0;
  const books = fs.readdirSync(dist).filter((name) => /^quran.*\.json$/.test(name));
  for (const book of books) {
    const translation = book === "quran.json" ? null : book.slice("quran_".length, -".json".length);
    const field = translation === "transliteration" ? "transliteration" : "translation";
    for (const expected of JSON.parse(fs.readFileSync(`${dist}/${book}`))) {
      const served = await surah(expected.id, translation);
      if (served.ayahs.length !== expected.verses.length) throw new Error(`${book}: surah ${expected.id}: ayah count`);
      expected.verses.forEach((verse, index) => {
        const ayah = served.ayahs[index];
        const same = ayah.text === verse.text && (!translation || ayah.translation === verse[field]);
        if (!same || ayah.number !== verse.id) throw new Error(`${book}: surah ${expected.id}, ayah ${verse.id} differs`);
        texts += 1;
      });
    }
  }
  if (books.length < 12) throw new Error(`only ${books.length} books in ${dist}`);
  console.log(`${books.length} books, ${texts} texts, all as in the package`);
}

main().catch((error) => {
  console.error(error.message);
  process.exit(1);
});

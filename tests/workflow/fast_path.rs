//! Which messages the shipped settings send down the fast path.

use agentic_fleet::settings::{Settings, Sources};
use agentic_fleet::workflow::FastPathRules;

fn shipped() -> FastPathRules {
    let fast = Settings::load(&Sources::default()).unwrap().settings.fast_path;
    let words =
        |list: &[agentic_fleet::settings::units::Phrase]| list.iter().map(|word| word.as_str().to_owned()).collect();
    FastPathRules {
        enabled: fast.enabled,
        max_chars: fast.max_chars.as_usize(),
        patterns: words(&fast.patterns),
        time_sensitive: words(&fast.time_sensitive),
    }
}

const FAST: [&str; 40] = [
    "Hi",
    "hello!",
    "Hey there",
    "  Hi, how are you?",
    "Good morning",
    "Thanks a lot",
    "thank you!",
    "bye",
    "What is a monad?",
    "what are prime numbers",
    "What does HTTP stand for?",
    "What's the capital of France?",
    "who was Ada Lovelace",
    "Who is the author of Faust?",
    "define entropy",
    "spell necessary",
    "translate dog to Spanish",
    "How do you say thanks in Japanese?",
    "how many feet are in a mile",
    "convert 10 miles to km",
    "calculate 12 * 12",
    "ping",
    "Hallo",
    "Guten Morgen!",
    "Danke dir",
    "Was ist ein Proton?",
    "Wer war Goethe?",
    "¡Hola!",
    "hola",
    "¿Qué es un átomo?",
    "gracias",
    "Bonjour",
    "Merci beaucoup",
    "Qui est Victor Hugo ?",
    "Ciao!",
    "Obrigado",
    "Привет",
    "Что такое интеграл?",
    "你好",
    "こんにちは",
];

const SLOW: [&str; 32] = [
    "",
    "   ",
    "history of Rome",
    "hippos are big",
    "Compare X and Y and write a one-page brief",
    "what is the weather today",
    "What is the latest version of Rust?",
    "what's the price of gold",
    "Who is the current president of France?",
    "what is happening right now",
    "what are the news",
    "hi, what is the stock price of ACME",
    "Write a report about solar power",
    "Fix this bug in my code",
    "Plan a trip to Rome for five days",
    "whatever",
    "thankless tasks are what I do",
    "heyday of steam engines",
    "What is better for us? Compare the three vendors",
    "define the roadmap and write it down step by step",
    "Summarise this document",
    "analyse these sales figures",
    "Was ist heute passiert?",
    "Wie ist das Wetter",
    "¿Qué es lo que pasa hoy?",
    "Bonjour, quelle est la météo",
    "Ciao, che notizie ci sono oggi?",
    "Что такое курс доллара сегодня",
    "你好，今天怎么样",
    "今日の天気は",
    "오늘 뉴스 알려줘",
    "Hi, please go through all of our quarterly numbers, find what is odd, explain it to the board and draft the letter to them",
];

#[test]
fn seventy_two_messages_in_ten_languages_go_where_they_should() {
    let rules = shipped();
    for message in FAST {
        assert!(rules.fits(message), "{message:?} needs no agent");
    }
    for message in SLOW {
        assert!(!rules.fits(message), "{message:?} needs the fleet");
    }
}

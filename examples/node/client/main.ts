interface Answer {
  greeting: string;
  visits: number;
}

function show(id: string, text: string): void {
  const element = document.getElementById(id);
  if (element) element.textContent = text;
}

fetch('visits')
  .then((response) => response.json())
  .then((answer: Answer) => {
    show('greeting', answer.greeting);
    show('visits', String(answer.visits));
  });

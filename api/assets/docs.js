"use strict";

SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#api",
  deepLinking: true,
  docExpansion: "list",
  defaultModelsExpandDepth: 0,
  tryItOutEnabled: true,
  validatorUrl: null, // it would send the document to a server of its own
  onComplete: () => {
    document.title = document.querySelector("#api .title")?.firstChild?.textContent ?? document.title;
  },
});
